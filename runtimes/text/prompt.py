"""From the user's text to token ids around the image, and from generated ids back to text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from edgetok import limits
from edgetok.bundle.processor import PromptPlan, Segment
from edgetok.errors import BundleError, InputError, UsageError

_REPLACEMENT = "\ufffd"  # what decoders print for a cut UTF-8 character


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids of a rendered prompt; the visual tokens stand between them.

    `question` are the places of the user's own text in `before` and `after` put together: of
    every token that holds a character of it.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    question: range = range(0)

    @property
    def tokens(self) -> int:
        """Text tokens on both sides of the image."""
        return len(self.before) + len(self.after)

    @property
    def question_ids(self) -> tuple[int, ...]:
        """The ids of the user's own text."""
        return (*self.before, *self.after)[self.question.start : self.question.stop]


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
        later: the same without the space that some tokenizers put before the first word.
    """

    first: Tokenizer
    later: Tokenizer

    def encode(self, text: str, *, first: bool) -> list[int]:
        return self.split(text, first=first).ids

    def split(self, text: str, *, first: bool) -> Tokens:
        tokenizer = self.first if first else self.later
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
        _never_prepend(description)
        return TextTokenizer(first, _plain_tokenizer(description))
    except Exception as error:  # the binding raises bare Exception
        raise BundleError(
            f"the tokenizer cannot be read ({error}); upgrade `tokenizers` or export again"
        ) from error


def encode_prompt(plan: PromptPlan, tokenizer: TextTokenizer, user_text: str) -> Prompt:
    """Render the prompt plan around the user's text.

    Literal text and user text that touch are tokenized together, so that the ids equal those of
    the rendered template; special tokens come from the plan only.

    Raises:
        InputError: if the text is too long, is no valid Unicode or yields a control token.
    """
    _require_text(user_text)
    sides: list[list[int]] = [[]]
    pending = ""
    first = True
    user_at: int | None = None  # where the user's text begins in `pending`
    question = range(0)
    for segment in [*plan.segments, Segment(ids=[])]:  # the last one flushes
        if segment.text is not None or segment.slot == "user":
            user_at = len(pending) if segment.text is None else user_at
            pending += user_text if segment.text is None else segment.text
            continue
        if pending:
            found = _encode_text(plan, tokenizer, pending, first)
            if user_at is not None:
                question = _find_question(found, user_at, user_text, sum(map(len, sides)))
            sides[-1] += found.ids
            pending, first, user_at = "", False, None
        sides[-1] += segment.ids or []
        if segment.slot == "image":
            sides.append([])
            first = False
    if len(sides) != 2:
        raise BundleError(f"the prompt has {len(sides) - 1} image slots instead of 1; export again")
    return Prompt(tuple(sides[0]), tuple(sides[1]), question)


def encode_turn(plan: PromptPlan, tokenizer: TextTokenizer, user_text: str) -> tuple[int, ...]:
    """Ids that stand between an answer without its stop token and the next answer.

    Raises:
        UsageError: if the model's chat template has no later turns.
        InputError: as `encode_prompt`.
    """
    if plan.turn is None:
        raise UsageError(
            "this model's chat template writes earlier turns anew when later ones come, so this "
            "bundle has no conversations; ask single questions"
        )
    _require_text(user_text)
    ids: list[int] = []
    pending = ""
    for segment in [*plan.turn, Segment(ids=[])]:  # the last one flushes
        if segment.ids is None:
            pending += user_text if segment.text is None else segment.text
            continue
        if pending:
            ids += _encode_text(plan, tokenizer, pending, first=False).ids
            pending = ""
        ids += segment.ids
    return tuple(ids)


def _find_question(found: Tokens, start: int, user_text: str, skipped: int) -> range:
    """Places of the user's text, which starts at character `start`, after `skipped` tokens."""
    if not user_text:
        return range(0)
    first = found.count_before(start)
    last = len(found.ids) - found.count_from(start + len(user_text))
    return range(skipped + first, skipped + max(first, last))


def require_prompt_fits(prompt: Prompt, limit_tokens: int) -> None:
    """Refuse a prompt that a rung has no room for, before anything expensive runs.

    Raises:
        InputError: with the prompt's length, the limit and the way out.
    """
    if prompt.tokens > limit_tokens:
        raise InputError(
            f"the prompt has {prompt.tokens} text tokens, template included, and at most "
            f"{limit_tokens} fit; shorten it by {prompt.tokens - limit_tokens}, or export with "
            f"--prompt-tokens {prompt.tokens} or more"
        )


class Detokenizer:
    """Turns ids into text piece by piece, never cutting a character in two.

    `tokenizers.DecodeStream` would do, but raises on byte-fallback tokenizers when a model emits
    bytes that are no UTF-8.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []  # the ids of the last piece and those not yet shown
        self._shown_ids = 0  # of the window

    def push(self, token_id: int) -> str:
        """The text that one more id completes; empty while a character is incomplete."""
        self._window.append(token_id)
        piece = self._pending()
        if not piece or piece.endswith(_REPLACEMENT):
            return ""
        self._window = self._window[self._shown_ids :]
        self._shown_ids = len(self._window)
        return piece

    def flush(self) -> str:
        """What is left at the end; a character that never became whole shows as U+FFFD."""
        piece = self._pending()
        self._shown_ids = len(self._window)
        return piece

    def _pending(self) -> str:
        # Decoding a little of what came before keeps the space between two words.
        shown = self._tokenizer.decode(self._window[: self._shown_ids])
        return self._tokenizer.decode(self._window)[len(shown) :]


def _require_text(user_text: str) -> None:
    if not isinstance(user_text, str):
        raise UsageError(f"the prompt is a {type(user_text).__name__}; give a string")
    try:
        size_bytes = len(user_text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise InputError(
            f"the prompt has half a surrogate pair at character {error.start}; give valid Unicode"
        ) from error
    if size_bytes > limits.PROMPT_BYTES:
        raise InputError(
            f"the prompt has {size_bytes} bytes and at most {limits.PROMPT_BYTES} are read; "
            f"shorten it"
        )


def _encode_text(plan: PromptPlan, tokenizer: TextTokenizer, text: str, first: bool) -> Tokens:
    found = tokenizer.split(text, first=first)
    forbidden = set(plan.forbidden_ids).intersection(found.ids)
    if forbidden:
        raise InputError(
            f"the prompt contains the text of control tokens (ids {sorted(forbidden)}), which "
            f"only the chat template may place; remove it"
        )
    return found


def _plain_tokenizer(description: dict[str, Any]) -> Tokenizer:
    tokenizer = Tokenizer.from_str(json.dumps(description))
    tokenizer.no_truncation()  # a prompt is refused, never cut
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # encode them as text, that is
    return tokenizer


def _never_prepend(node: object) -> None:
    """Switch every `Metaspace` that prepends a space to the first word to never do so."""
    if isinstance(node, dict):
        if node.get("type") == "Metaspace" and node.get("prepend_scheme") == "first":
            node["prepend_scheme"] = "never"
        for child in node.values():
            _never_prepend(child)
    elif isinstance(node, list):
        for child in node:
            _never_prepend(child)
