"""A strict front door for the small JSON files of a bundle.

JSON readers disagree about duplicate keys, NaN and deep nesting, and a file that two readers
understand differently is how checks are bypassed. All of that is refused before a value is looked
at; msgspec then refuses unknown fields, wrong types and numbers out of range.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, NoReturn, TypeVar

import msgspec

from edgetok import limits
from edgetok.errors import BundleError

T = TypeVar("T")

Positive = Annotated[int, msgspec.Meta(ge=1, le=2**40)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every part of a bundle's JSON: immutable, and nothing unknown passes."""


def decode_strict(data: bytes, kind: type[T], what: str, limit_bytes: int) -> T:
    """Decode JSON that two careful readers cannot understand differently.

    Args:
        kind: the type to decode to, a `Struct` or a container of them.
        what: the name of the file, for the error text.

    Raises:
        BundleError: for anything else than exactly one valid value; names the JSON path.
    """
    require_plain_json(data, what, limit_bytes)
    try:
        return msgspec.json.decode(data, type=kind, strict=True)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise BundleError(f"{what}: {shorten(str(error), 400)}") from error


def encode_strict(value: object) -> bytes:
    """Deterministic JSON: keys sorted, one space of indent, a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=1) + b"\n"


def require_plain_json(data: bytes, what: str, limit_bytes: int) -> None:
    """Refuse JSON that is too large, too deep, not UTF-8, or has duplicate keys or NaN.

    Raises:
        BundleError: naming the problem and, for a duplicate key, the JSON path.
    """
    if len(data) > limit_bytes:
        raise BundleError(f"{what}: {len(data)} bytes, more than the limit of {limit_bytes}")
    _require_depth(data, what)
    pairs = _Pairs()
    try:
        tree = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=pairs.read,
            parse_constant=_refuse_constant,
            parse_int=str,  # values do not matter here; converting long digit strings is slow
            parse_float=str,
        )
    except UnicodeDecodeError as error:
        raise BundleError(f"{what}: not UTF-8 at byte {error.start}") from error
    except ValueError as error:
        raise BundleError(f"{what}: not valid JSON: {shorten(str(error), 200)}") from error
    if pairs.have_duplicates and (path := _duplicate_path(tree, "$")) is not None:
        raise BundleError(f"{what}: duplicate key at `{shorten(path, 200)}`")


def shorten(text: str | bytes, characters: int = 80) -> str:
    """Text from a bundle, made printable and short enough for an error message.

    protobuf gives text that is not UTF-8 as bytes.
    """
    plain = text if isinstance(text, str) and text.isprintable() else ascii(text)
    return plain if len(plain) <= characters else plain[: characters - 1] + "…"


# Possessive and with an optional end, so that an unterminated string costs one pass, not many.
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)


def _require_depth(data: bytes, what: str) -> None:
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(data):
        token = match[0]
        if token in b"[{":
            depth += 1
        elif token in b"]}":
            depth -= 1
        if depth > limits.MANIFEST_DEPTH:
            raise BundleError(
                f"{what}: nested more than {limits.MANIFEST_DEPTH} levels deep "
                f"at byte {match.start()}"
            )


class _Duplicate(dict[str, object]):
    """An object in which `key` occurs twice."""

    def __init__(self, pairs: list[tuple[str, object]], key: str) -> None:
        super().__init__(pairs)
        self.key = key


class _Pairs:
    """Reads objects, and notes whether a key of any occurs twice: only then is its path sought."""

    have_duplicates = False

    def read(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        read = dict(pairs)
        if len(read) == len(pairs):
            return read
        self.have_duplicates = True
        seen: set[str] = set()
        key = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        return _Duplicate(pairs, key)


def _duplicate_path(tree: object, path: str) -> str | None:
    if isinstance(tree, _Duplicate):
        return f"{path}.{tree.key}"
    children: list[tuple[str, object]] = []
    if isinstance(tree, dict):
        children = [(f"{path}.{key}", value) for key, value in tree.items()]
    elif isinstance(tree, list):
        children = [(f"{path}[{index}]", value) for index, value in enumerate(tree)]
    found = (_duplicate_path(value, child) for child, value in children)
    return next((path for path in found if path is not None), None)


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")
