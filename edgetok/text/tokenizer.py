"""A `tokenizer.json` as a device reads texts by it: special tokens in a text are plain words."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tokenizers import Tokenizer

from edgetok.errors import BundleError

Before = Literal["nothing", "token", "words"]  # what stands before a text


@dataclass(frozen=True, slots=True)
class Tokens:
    """Ids of a text and the characters that each one stands for, first and after the last."""

    ids: list[int]
    spans: list[tuple[int, int]]

    def count_before(self, character: int) -> int:
        """Tokens that end at or before this character."""
        return sum(end <= character for _, end in self.spans)

    def count_from(self, character: int) -> int:
        """Tokens that start at or after this character."""
        return sum(start >= character for start, _ in self.spans)


@dataclass(frozen=True, slots=True)
class TextTokenizer:
    """A tokenizer for which `<image>` and `</s>` in a text are ordinary characters.

    Args:
        first: encodes the beginning of a prompt.
        later: what stands behind a token; without the space that some tokenizers put before the
            first word of all.
        within: what continues words, such as those of an answer; without the space that some put
            before every text.
    """

    first: Tokenizer
    later: Tokenizer
    within: Tokenizer

    def encode(self, text: str, *, before: Before) -> list[int]:
        return self.split(text, before=before).ids

    def split(self, text: str, *, before: Before) -> Tokens:
        tokenizer = {"nothing": self.first, "token": self.later, "words": self.within}[before]
        found = tokenizer.encode(text, add_special_tokens=False)
        return Tokens(list(found.ids), list(found.offsets))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.first.decode(list(ids), skip_special_tokens=True))


def load_tokenizer(data: bytes) -> TextTokenizer:
    """Read a `tokenizer.json`.

    Raises:
        BundleError: if it is damaged or of a version that this `tokenizers` cannot read.
    """
    try:
        description = json.loads(data)
        first = _plain_tokenizer(description)
        later = _plain_tokenizer(description) if _drop_first_space(description) else first
        within = _plain_tokenizer(description) if _drop_every_space(description) else later
        return TextTokenizer(first, later, within)
    except Exception as error:  # the binding raises bare Exception
        raise BundleError(
            f"the tokenizer cannot be read ({error}); upgrade `tokenizers` or export again"
        ) from error


def _plain_tokenizer(description: dict[str, Any]) -> Tokenizer:
    tokenizer = Tokenizer.from_str(json.dumps(description))
    tokenizer.no_truncation()  # a prompt is refused, never cut
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # encode them as text, that is
    return tokenizer


def _drop_first_space(node: object) -> bool:
    """Switch every `Metaspace` that prepends a space to the first word to never do so.

    Whether there was one.
    """
    return _change(node, _drop_of_first)


def _drop_every_space(node: object) -> bool:
    """Switch off whatever prepends a space to any text; whether there was such a thing."""
    return _change(node, _drop_of_every)


def _drop_of_first(part: dict[str, Any]) -> bool:
    if part.get("type") != "Metaspace" or part.get("prepend_scheme") != "first":
        return False
    part["prepend_scheme"] = "never"
    return True


def _drop_of_every(part: dict[str, Any]) -> bool:
    kind = part.get("type")
    if kind == "Metaspace" and part.get("prepend_scheme", "always") != "never":
        part |= {"prepend_scheme": "never", "add_prefix_space": False}
    elif kind == "Prepend" and part.get("prepend"):
        part["prepend"] = ""
    elif kind == "ByteLevel" and part.get("add_prefix_space"):
        part["add_prefix_space"] = False
    else:
        return False
    return True


def _change(node: object, drop: Callable[[dict[str, Any]], bool]) -> bool:
    """Go through all parts of a tokenizer; whether any was changed."""
    if isinstance(node, dict):
        changed = drop(node)
        return any([changed, *(_change(child, drop) for child in node.values())])
    return isinstance(node, list) and any([_change(child, drop) for child in node])  # noqa: C419  # all of them
