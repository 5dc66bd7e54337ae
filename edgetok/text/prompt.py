"""From the user's text to token ids around the image, and from generated ids back to text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgetok import limits
from edgetok.bundle.processor import PromptPlan, Segment
from edgetok.errors import BundleError, InputError, UsageError
from edgetok.text.tokenizer import Before, TextTokenizer, Tokens

Strip = Literal["left", "right", "both"] | None
_REPLACEMENT = "\ufffd"  # what decoders print for a cut UTF-8 character
# What control tokens take away: Unicode's White_Space, of which Python's own `strip` takes more.
_WHITE_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)


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


def encode_prompt(
    plan: PromptPlan, tokenizer: TextTokenizer, user_text: str, system: str | None = None
) -> Prompt:
    """Render the prompt plan around the user's text.

    Literal text and given text that touch are tokenized together, so that the ids equal those of
    the rendered template; special tokens come from the plan only.

    Args:
        system: what the model is told beside the question; None leaves what the template says by
            itself.

    Raises:
        InputError: if a text is too long, is no valid Unicode or yields a control token.
        UsageError: if the model's chat template takes no system message.
    """
    segments = plan.segments if system is None else plan.system
    if segments is None:
        raise UsageError(
            "this model's chat template takes no system message; put it before the question"
        )
    texts = {"user": user_text} if system is None else {"user": user_text, "system": system}
    images = sum(segment.slot == "image" for segment in segments)
    if images != 1:
        raise BundleError(f"the prompt has {images} image slots instead of 1; export again")
    before: Before = "nothing" if plan.starts_with_text else "token"
    return _Writer(plan, tokenizer, texts, before).write(segments)


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
    return _Writer(plan, tokenizer, {"user": user_text}, "words").write(plan.turn).before


def strip_text(text: str, strip: Strip) -> str:
    """What a template leaves of a text whose ends it strips, as Python does it."""
    if strip in ("left", "both"):
        text = text.lstrip()
    return text.rstrip() if strip in ("right", "both") else text


class _Writer:
    """Writes segments as ids; text that touches is kept until a control token or an image comes.

    Args:
        texts: by slot, what is given beside the plan.
        before: what stands before the first text.
    """

    def __init__(
        self,
        plan: PromptPlan,
        tokenizer: TextTokenizer,
        texts: Mapping[str, str],
        before: Before,
    ) -> None:
        for text in texts.values():
            _require_text(text)
        self._plan, self._tokenizer, self._texts = plan, tokenizer, texts
        self._before = before
        self._sides: list[list[int]] = [[]]
        self._pending = ""
        self._user: range | None = None  # where the user's text is in what is pending
        self._takes_space = False  # whether the last control token does, of what stands behind it
        self._question = range(0)

    def write(self, segments: Sequence[Segment]) -> Prompt:
        for segment in segments:
            if segment.text is not None:
                self._pending += segment.text
            elif segment.slot in self._texts:
                self._give(segment)
            else:
                self._flush(segment.strip in ("left", "both"))
                self._sides[-1] += segment.ids or []
                if segment.slot == "image":
                    self._sides.append([])
                if segment.slot == "image" or self._before == "words":
                    self._before = "token"
                self._takes_space = segment.strip in ("right", "both")
        self._flush(takes_space=False)
        before, after = (*self._sides, [])[:2]
        return Prompt(tuple(before), tuple(after), self._question)

    def _give(self, segment: Segment) -> None:
        text = strip_text(self._texts[segment.slot or ""], segment.strip)
        if segment.slot == "user":
            self._user = range(len(self._pending), len(self._pending) + len(text))
        self._pending += text

    def _flush(self, takes_space: bool) -> None:
        """Write what is pending before a control token, which may take the white space there."""
        text, user = self._pending, self._user
        if self._takes_space and text:
            text = text.lstrip(_WHITE_SPACE)
        removed = len(self._pending) - len(text)
        text = text.rstrip(_WHITE_SPACE) if takes_space else text
        self._pending, self._user = "", None
        if not text:
            return
        found = _encode_text(self._plan, self._tokenizer, text, self._before)
        if user is not None:
            start, stop = (min(max(at - removed, 0), len(text)) for at in (user.start, user.stop))
            skipped = sum(map(len, self._sides))
            self._question = _find_question(found, start, stop, skipped)
        self._sides[-1] += found.ids
        self._before = "token"


def _find_question(found: Tokens, start: int, stop: int, skipped: int) -> range:
    """Places of the user's text, characters `start` to `stop`, after `skipped` tokens."""
    if start == stop:
        return range(0)
    first = found.count_before(start)
    last = len(found.ids) - found.count_from(stop)
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


def _encode_text(plan: PromptPlan, tokenizer: TextTokenizer, text: str, before: Before) -> Tokens:
    found = tokenizer.split(text, before=before)
    forbidden = set(plan.forbidden_ids).intersection(found.ids)
    if forbidden:
        raise InputError(
            f"the prompt contains the text of control tokens (ids {sorted(forbidden)}), which "
            f"only the chat template may place; remove it"
        )
    return found
