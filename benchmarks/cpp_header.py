r"""Write runtimes/cpp/src/generated.hpp: names, limits and operators as the Python code has them.

python benchmarks/cpp_header.py
"""

from __future__ import annotations

from pathlib import Path

from edgetok import limits, names
from edgetok.bundle.operators import ALLOWED, SIZED_BY_OPERANDS
from edgetok.runtimes.runtime.reuse import CHUNK_ROW_COST
from edgetok.runtimes.runtime.runtime import STEP_ROWS

HEADER = Path(__file__).parents[1] / "runtimes" / "cpp" / "src" / "generated.hpp"

_OPENING = """\
// Written by `make docs` (benchmarks/cpp_header.py) from edgetok/names.py, edgetok/limits.py,
// edgetok/bundle/operators.py and what runtimes/runtime/reuse.py measured. Do not edit: a test
// compares it with them.
#pragma once

#include <cstdint>
"""


def render() -> str:
    """The text of the header."""
    tables = [*_limits(), *_costs(), *_names(), *_operators()]
    return "\n".join(
        [_OPENING, "namespace edgetok_impl {\n", *tables, "}  // namespace edgetok_impl\n"]
    )


def _limits() -> list[str]:
    numbers = {name: value for name, value in _constants(limits) if isinstance(value, int)}
    lines = [f"constexpr std::int64_t {name} = {value};" for name, value in numbers.items()]
    return ["namespace limits {", *lines, "}  // namespace limits\n"]


def _costs() -> list[str]:
    numbers = {"CHUNK_ROW_COST": CHUNK_ROW_COST, "STEP_ROWS": STEP_ROWS}
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


if __name__ == "__main__":
    HEADER.write_text(render(), encoding="utf-8")
