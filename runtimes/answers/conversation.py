"""Several questions about one image, each answered in the light of the turns before it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Unpack

from edgetok import limits
from edgetok.bundle.manifest import Manifest
from edgetok.control import Policy
from edgetok.errors import InputError
from edgetok.ladder import Rung
from edgetok.runtimes.answers.answer import Answer, Progress
from edgetok.runtimes.answers.request import EncodedImage, Request, TurnOptions
from edgetok.runtimes.answers.session import Session
from edgetok.runtimes.answers.stream import Stream
from edgetok.runtimes.images.several import Pictures
from edgetok.runtimes.runtime.reuse import PromptRows


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and what was answered, cut short if the stream was closed."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class _Past:
    """What has been said: the turns, their rows, and what was found out at the first one."""

    turns: tuple[Turn, ...]
    rows: PromptRows
    first: Progress


class Conversation:
    """Turns about one image. Each is a prompt that begins with all of the one before it.

    So the KV cache has its rows already, unless the model has answered something else since; then
    they are computed once more. Turns that failed, or were closed before their first token, leave
    no trace.

    Args:
        session: answers; those of a model for itself and all of its conversations.
        image: what is talked about.
        policy: chooses the rung, at the first turn.
        system: what the model is told before the first turn.
    """

    def __init__(
        self,
        session: Session,
        image: Pictures | EncodedImage,
        policy: Policy,
        system: str | None = None,
    ) -> None:
        self._session = session
        self._image = image
        self._policy = policy
        self._system = system
        self._past: _Past | None = None

    @property
    def turns(self) -> tuple[Turn, ...]:
        """What has been said so far."""
        return () if self._past is None else self._past.turns

    @property
    def tokens_left(self) -> int:
        """Tokens of questions and answers, template included, that the KV cache still takes.

        Before the first turn its visual tokens are not yet counted.
        """
        if self._past is None:
            return self._capacity(self._session.steps.runtime.ladder.largest)
        return self._room(self._past)

    def ask(self, text: str, **options: Unpack[TurnOptions]) -> Answer:
        """Answer the next question; arguments and errors as in `stream`."""
        return self.stream(text, **options).finish()

    def stream(self, text: str, **options: Unpack[TurnOptions]) -> Stream:
        """Answer the next question piece by piece; options as in `Model.stream`.

        Closing the stream ends the turn: what was answered until then has been said.

        Raises:
            UsageError: for options that are out of range, or, at the first piece, while another
                stream of this model is open.
            InputError: at the first piece, if image or question is rejected, or the KV cache has
                no room for the question.
        """
        asked = self._session.steps.runtime.manifest.generation
        request = Request.of(self._policy, options, asked, system=self._system)
        progress = self._session.progress()
        return Stream(self._run(text, request, progress), progress)

    def _run(self, text: str, request: Request, progress: Progress) -> Generator[str, None, None]:
        with self._session.exclusive() as steps:
            with progress.watch.measure("ttft"):
                rows = self._rows(text, request, progress)
                sampler = steps.sampler(rows, request)
                logits = steps.fill(rows, progress.rung, progress)
                token_id = steps.choose(logits, sampler, progress)
            try:
                yield from steps.decode(token_id, sampler, progress)
            finally:  # closing the stream ends the turn as well
                self._note(text, rows, progress)

    def _rows(self, text: str, request: Request, progress: Progress) -> PromptRows:
        """All rows up to the answer to `text`."""
        past = self._past
        if past is None:
            return self._session.steps.open(self._image, text, request, progress)
        first = past.first
        progress.decision, progress.signals, progress.kept = (
            first.decision,
            first.signals,
            first.kept,
        )
        progress.max_new_tokens = request.max_new_tokens or first.rung.new_tokens
        with progress.watch.measure("tokenize"):
            ids = self._session.steps.processor.encode_turn(text)
        progress.prompt_tokens = len(ids)
        self._require_room(past, len(ids))
        return past.rows.followed_by(ids)

    def _note(self, text: str, rows: PromptRows, progress: Progress) -> None:
        if not progress.token_ids:
            return
        said = list(progress.token_ids)
        if said[-1] in self._session.steps.runtime.manifest.text.stop_ids:
            del said[-1]  # the next turn begins as the template ends an answer
        turns = (*self.turns, Turn(text, "".join(progress.pieces)))
        first = progress if self._past is None else self._past.first
        self._past = _Past(turns, rows.followed_by(said), first)

    def _capacity(self, rung: Rung) -> int:
        """Rows that a conversation can have: a layer has room for what prefill takes away, too."""
        manifest = self._session.steps.runtime.manifest
        if manifest.kv.keep:  # a policy makes room; only positions may come to an end
            return _endless(manifest)
        spec = next(spec for spec in manifest.ladder if spec.budget == rung.budget)
        layers = zip(manifest.kv.slots, spec.removed, strict=True)
        return min(manifest.text.max_positions, *(slots + removed for slots, removed in layers))

    def _room(self, past: _Past) -> int:
        return max(0, self._capacity(past.first.rung) - len(past.rows))

    def _require_room(self, past: _Past, needed: int) -> None:
        left, capacity = self._room(past), self._capacity(past.first.rung)
        if needed > left:
            raise InputError(
                f"this turn needs {needed} tokens and {left} of {capacity} are left in the "
                f"KV cache after {len(past.turns)} turns; shorten the question, begin a new "
                "conversation, or export with a longer cache (--new-tokens)"
            )


def _endless(manifest: Manifest) -> int:
    """Rows of a conversation under a policy, all that were ever written counted."""
    renumbered = manifest.kv.positions == "renumbered"
    return limits.CACHE_SLOTS if renumbered else manifest.text.max_positions
