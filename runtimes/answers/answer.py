"""What generation gives back, and the notes from which it is put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from edgetok import names
from edgetok.control import Decision
from edgetok.errors import UsageError
from edgetok.ladder import Rung
from edgetok.runtimes.text.sampling import Logits, log_probability, margin

Clock = Callable[[], float]  # seconds, never running backwards
StopReason = Literal["stop", "length", "cache", "numeric", "cancelled"]


@dataclass(frozen=True, slots=True)
class Confidence:
    """How sure the model was.

    Args:
        mean_log_probability: natural logarithm, mean over the generated tokens, temperature 1.
        first_margin: probability of the likeliest first token minus that of the second.
    """

    mean_log_probability: float
    first_margin: float

    @property
    def signals(self) -> dict[str, float]:
        """As a controller reads it."""
        return {
            names.ANSWER_MARGIN: self.first_margin,
            names.ANSWER_LOG_PROBABILITY: self.mean_log_probability,
        }


@dataclass(frozen=True, slots=True)
class Attempt:
    """A rung that answered, and how sure it was; nothing is known of an answer without a token."""

    budget: int
    signals: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and how it came about.

    Args:
        text: the answer, without control tokens; the streamed pieces joined.
        token_ids: all generated ids, the stop token included.
        budget: visual tokens that the language model saw.
        reason: why this rung, in words.
        attempts: the rungs that answered in turn; those before the last were not sure enough.
        question_ids: token ids of the user's own text; empty in later turns of a conversation.
        stop_reason: "stop" (the model ended), "length" (max_new_tokens), "cache" (no slot left),
            "numeric" (logits were not finite) or "cancelled" (the stream was closed).
        timings_ms: preprocess, tokenize, tower, compress, embed, prefill, ttft, decode_total,
            decode_per_token. Stages of an image that was encoded before are missing. Until an
            answer is taken nothing of it is shown, so `ttft` holds all of it, and `rejected` what
            the rungs before it took.
        decode_tokens_per_s: after the first token; 0 if there was only one.
        confidence: None if there is no token.
        prompt_tokens: text tokens of the prompt, template included; in a conversation those of
            the last turn.
        reused_rows: rows of the prompt, visual tokens included, that were in the KV cache already.
        kept: source index of each visual token; -1 for the CLS token or a mixture of all.
        signals: what the tower said about the image.
        exit_layer: the decoder layer before which visual rows left the prompt, or the number of
            layers if they stayed; None for a bundle in which no signal decides that.
    """

    text: str
    token_ids: tuple[int, ...]
    budget: int
    reason: str
    stop_reason: StopReason
    timings_ms: Mapping[str, float]
    decode_tokens_per_s: float
    confidence: Confidence | None
    prompt_tokens: int
    reused_rows: int
    kept: tuple[int, ...]
    signals: Mapping[str, float]
    exit_layer: int | None = None
    attempts: tuple[Attempt, ...] = ()
    question_ids: tuple[int, ...] = ()


@dataclass(slots=True)
class Stopwatch:
    """Adds up milliseconds by name."""

    clock: Clock
    elapsed_ms: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        start = self.clock()
        try:
            yield
        finally:
            elapsed = 1000 * (self.clock() - start)
            self.elapsed_ms[name] = self.elapsed_ms.get(name, 0.0) + elapsed


@dataclass(slots=True)
class Progress:
    """The state of one answer while it is generated."""

    watch: Stopwatch
    decision: Decision | None = None
    signals: Mapping[str, float] = field(default_factory=dict)
    prompt_tokens: int = 0
    reused_rows: int = 0
    exit_layer: int | None = None
    max_new_tokens: int = 0
    kept: tuple[int, ...] = ()
    token_ids: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    log_probability_sum: float = 0.0
    first_margin: float = 0.0
    stop_reason: StopReason | None = None
    question: tuple[int, ...] = ()
    rejected: list[Attempt] = field(default_factory=list)

    @property
    def rung(self) -> Rung:
        """The rung that was chosen.

        Raises:
            UsageError: if none was yet.
        """
        if self.decision is None:
            raise UsageError("there is no answer: the stream was closed before it began")
        return self.decision.rung

    @property
    def review(self) -> Callable[[Mapping[str, float]], Decision | None] | None:
        return None if self.decision is None else self.decision.review

    @property
    def answer_signals(self) -> Mapping[str, float]:
        """How sure the answer is, as a controller reads it; nothing without a token."""
        return {} if self.confidence is None else self.confidence.signals

    @property
    def _attempt(self) -> Attempt:
        return Attempt(self.rung.budget, self.answer_signals)

    def add_token(self, token_id: int, logits: Logits) -> None:
        if not self.token_ids:
            self.first_margin = margin(logits)
        self.log_probability_sum += log_probability(logits, token_id)
        self.token_ids.append(token_id)

    def reject(self, following: Decision) -> None:
        """Forget the answer of this rung; another one is asked."""
        self.rejected.append(self._attempt)
        elapsed = self.watch.elapsed_ms
        spent = sum(
            elapsed.pop(name, 0.0) for name in ("compress", "embed", "prefill", "decode_total")
        )
        elapsed["rejected"] = elapsed.get("rejected", 0.0) + spent
        self.decision = following
        self.token_ids, self.pieces, self.log_probability_sum = [], [], 0.0
        self.stop_reason = None

    def show(self, piece: str) -> Iterator[str]:
        """Note a piece of text and pass it on, unless it is empty."""
        if piece:
            self.pieces.append(piece)
            yield piece

    def answer(self) -> Answer:
        """The answer, complete or cancelled.

        Raises:
            UsageError: if generation has not ended, or ended before a rung was chosen.
        """
        if self.stop_reason is None:
            raise UsageError("the answer is not complete; read the stream to its end or close it")
        if self.decision is None:
            raise UsageError("there is no answer: the stream was closed before it began")
        seconds = self.watch.elapsed_ms.get("decode_total", 0.0) / 1000
        steps = max(0, len(self.token_ids) - 1)
        return Answer(
            text="".join(self.pieces),
            token_ids=tuple(self.token_ids),
            budget=self.decision.rung.budget,
            reason=self.decision.reason,
            stop_reason=self.stop_reason,
            timings_ms={
                **self.watch.elapsed_ms,
                "decode_total": 1000 * seconds,
                "decode_per_token": 1000 * seconds / steps if steps else 0.0,
            },
            decode_tokens_per_s=steps / seconds if seconds > 0 else 0.0,
            confidence=self.confidence,
            prompt_tokens=self.prompt_tokens,
            reused_rows=self.reused_rows,
            kept=self.kept,
            signals=dict(self.signals),
            exit_layer=self.exit_layer,
            attempts=(*self.rejected, self._attempt),
            question_ids=self.question,
        )

    @property
    def confidence(self) -> Confidence | None:
        """How sure the model is of what it said so far; None before the first token."""
        if not self.token_ids:
            return None
        return Confidence(self.log_probability_sum / len(self.token_ids), self.first_margin)
