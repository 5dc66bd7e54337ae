r"""Write what the C++ library takes from the Python code: names, limits, operators and schemas.

python runtimes/cpp/make_generated.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from edgetok import limits, names
from edgetok.bundle.encoders import EncoderManifest
from edgetok.bundle.manifest import Manifest
from edgetok.bundle.operators import ALLOWED, SIZED_BY_OPERANDS
from edgetok.bundle.processor import ImagePlan, PromptPlan
from edgetok.control.table import BenchTable
from edgetok.runtimes.runtime.cache import CALL_COST, STEP_COST

SOURCES = Path(__file__).with_name("src")
FILES = (Manifest, EncoderManifest, ImagePlan, PromptPlan, BenchTable)  # each is a file's content

_WRITTEN = """\
// Written by `make docs` (runtimes/cpp/make_generated.py) from {0}.
// Do not edit: a test compares it with them.
"""
# All patterns are of one class of characters.
_CLASS = re.compile(r"\^\[([^\]\\]+)\]\{(\d+)(?:,(\d+))?\}(?:\$|\\Z)")


def render() -> dict[Path, str]:
    """The text of each file that is written."""
    return {
        SOURCES / "generated.hpp": _header(),
        SOURCES / "bundle" / "generated_schemas.cpp": _schemas(),
    }


def _header() -> str:
    opening = [
        _WRITTEN.format(
            "edgetok/names.py, edgetok/limits.py,\n// edgetok/bundle/operators.py and what "
            "runtimes/runtime/reuse.py measured"
        )
        + "#pragma once\n",
        "#include <cstdint>\n",
    ]
    tables = [*_limits(), *_costs(), *_names(), *_operators()]
    return "\n".join(
        [*opening, "namespace edgetok_impl {\n", *tables, "}  // namespace edgetok_impl\n"]
    )


def _limits() -> list[str]:
    numbers = {name: value for name, value in _constants(limits) if isinstance(value, int)}
    lines = [f"constexpr std::int64_t {name} = {value};" for name, value in numbers.items()]
    return ["namespace limits {", *lines, "}  // namespace limits\n"]


def _costs() -> list[str]:
    numbers = {"CALL_COST": CALL_COST, "STEP_COST": STEP_COST}
    lines = [f"constexpr std::int64_t {name} = {value};" for name, value in numbers.items()]
    return ["namespace costs {", *lines, "}  // namespace costs\n"]


def _names() -> list[str]:
    words = {name: value for name, value in _constants(names) if isinstance(value, str)}
    lines = [f'constexpr char {name}[] = "{value}";' for name, value in words.items()]
    return ["namespace names {", *lines, "}  // namespace names\n"]


def _operators() -> list[str]:
    """Sorted tables, a line an entry: domain and operator; operator and the operands that size."""
    allowed = [
        f'    {{"{domain}", "{operator}"}},'
        for domain in sorted(set(ALLOWED) - {"ai.onnx"})
        for operator in sorted(ALLOWED[domain])
    ]
    sized = [
        f'    {{"{operator}", {operand}}},'
        for operator, operands in sorted(SIZED_BY_OPERANDS.items())
        for operand in operands
    ]
    return [
        "struct Operator {\n  const char* domain;\n  const char* name;\n};\n",
        "constexpr Operator kAllowed[] = {",
        *allowed,
        "};\n",
        "struct SizedBy {\n  const char* name;\n  int operand;\n};\n",
        "constexpr SizedBy kSizedBy[] = {",
        *sized,
        "};\n",
    ]


def _constants(module: object) -> list[tuple[str, object]]:
    return [(name, value) for name, value in vars(module).items() if name.isupper()]


def _schemas() -> str:
    """A function for each type; what it refers to comes before it."""
    functions: dict[str, str] = {}
    for kind in FILES:
        _schema(inspect.type_info(kind), functions)
    exported = [functions.pop(_name(kind)) for kind in FILES]
    return "\n".join(
        [
            _WRITTEN.format("edgetok/bundle, edgetok/rules.py and\n// edgetok/control/table.py"),
            '#include "bundle/schema.hpp"\n',
            "namespace edgetok_impl {\n",
            "using namespace schema;\n",
            "namespace {\n",
            *functions.values(),
            "}  // namespace\n",
            *exported,
            "}  // namespace edgetok_impl\n",
        ]
    )


def _add_object(kind: inspect.StructType, functions: dict[str, str]) -> str:
    """The call of a struct's function, which is added if there is none yet."""
    name = _name(kind.cls)
    if not kind.forbid_unknown_fields or kind.array_like or kind.tag is not None:
        raise ValueError(f"{name}: the C++ reader knows plain objects without unknown fields")
    lines = [
        f'      {{"{f.encode_name}", {_schema(f.type, functions)}, {_fallback(f)}}},'
        for f in kind.fields
    ]
    text = "\n".join(
        [
            f"const Schema* {name}() {{",
            "  static const Schema* const made = object({",
            *lines,
            "  });",
            "  return made;",
            "}\n",
        ]
    )
    if functions.setdefault(name, text) != text:
        raise ValueError(f"two types are called {name}")
    return f"{name}()"


def _name(kind: type) -> str:
    """The function of a type: EncoderManifest -> encoder_manifest_schema."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower() + "_schema"


def _schema(kind: inspect.Type, functions: dict[str, str]) -> str:
    """An expression of type `const Schema*`."""
    match kind:
        case inspect.StructType():
            return _add_object(kind, functions)
        case inspect.UnionType(types=(other, inspect.NoneType())):
            return f"nullable({_schema(other, functions)})"
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return f"list({', '.join([_schema(item, functions), *_sizes(kind)])})"
        case inspect.TupleType(item_types=items):
            return f"tuple({{{', '.join(_schema(item, functions) for item in items)}}})"
        case inspect.DictType(key_type=key, value_type=value):
            pair = [_schema(key, functions), _schema(value, functions)]
            return f"map({', '.join([*pair, *_sizes(kind)])})"
    return _scalar(kind)


def _scalar(kind: inspect.Type) -> str:
    match kind:
        case inspect.LiteralType(values=(int(value),)):
            return f"integer({value}, {value})"
        case inspect.LiteralType(values=values):
            return f"choice({{{', '.join(json.dumps(value) for value in values)}}})"
        case inspect.IntType() | inspect.FloatType():
            return _number(kind)
        case inspect.StrType():
            return _text(kind)
        case inspect.BoolType():
            return "boolean()"
    raise ValueError(f"{kind}: the C++ reader has no such type")


def _sizes(kind: Any) -> Iterator[str]:
    """Arguments for how many items there may be."""
    if kind.min_length is not None or kind.max_length is not None:
        yield str(kind.min_length or 0)
    if kind.max_length is not None:
        yield str(kind.max_length)


def _number(kind: inspect.IntType | inspect.FloatType) -> str:
    whole = isinstance(kind, inspect.IntType)
    if whole and (kind.gt, kind.lt) != (None, None):
        raise ValueError(f"{kind}: write integers with ge and le")
    name, least, most = (
        ("integer", "INT64_MIN", "INT64_MAX") if whole else ("real", "-kInfinity", "kInfinity")
    )
    low = kind.ge if kind.gt is None else kind.gt
    high = kind.le if kind.lt is None else kind.lt
    bounds = [least if low is None else str(low), most if high is None else str(high)]
    open_ends = [str(end is not None).lower() for end in (kind.gt, kind.lt)]
    return f"{name}({', '.join(bounds + (open_ends if 'true' in open_ends else []))})"


def _text(kind: inspect.StrType) -> str:
    """Of characters of one class, or of any."""
    if kind.pattern is None:
        return f'text("", {kind.min_length or 0}, {kind.max_length or "SIZE_MAX"})'
    found = _CLASS.fullmatch(kind.pattern)
    if found is None or kind.min_length is not None or kind.max_length is not None:
        raise ValueError(f"{kind}: the C++ reader knows patterns like ^[a-z]{{1,9}}$ only")
    characters, least, most = found.groups()
    return f'text("{characters}", {least}, {most or least})'


def _fallback(field: inspect.Field) -> str:
    """What stands for a field that is missing; `{}` where it must be there."""
    if field.required:
        return "{}"
    value = field.default
    if field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    match value:
        case None:
            return "Value(nullptr)"
        case bool():
            return f"Value({str(value).lower()})"
        case int() | float():
            number = repr(value) if isinstance(value, float) else f"std::int64_t{{{value}}}"
            return f"Value({number})"
        case str():
            return f"Value(std::string({json.dumps(value)}))"
        case [] | () if not value:
            return "Value(List{})"
        case {} if not value:
            return "Value(Object{})"
    raise ValueError(f"{field.name}: the C++ reader has no default like {value!r}")


def main() -> None:
    for path, text in render().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
