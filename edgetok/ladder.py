"""Buckets and ladders: every form in which a user may name budgets is normalised here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from edgetok import limits
from edgetok.errors import UsageError


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """One rung: export-time constants of the graphs that serve it.

    Args:
        budget: visual tokens that the language model sees (K).
        prompt_tokens: text tokens around them that fit, template included.
        cache_slots: KV cache rows; at least budget + prompt_tokens + 1.
    """

    budget: int
    prompt_tokens: int
    cache_slots: int

    @property
    def prefill_tokens(self) -> int:
        """Rows of the prefill graph: visual tokens and padded text tokens."""
        return self.budget + self.prompt_tokens

    @property
    def new_tokens(self) -> int:
        """Tokens that can be generated after a full prompt."""
        return self.cache_slots - self.prefill_tokens


@dataclass(frozen=True, slots=True)
class Ladder:
    """The ascending rungs of a bundle."""

    buckets: tuple[Bucket, ...]

    def __iter__(self) -> Iterator[Bucket]:
        return iter(self.buckets)

    def __len__(self) -> int:
        return len(self.buckets)

    @property
    def budgets(self) -> tuple[int, ...]:
        return tuple(bucket.budget for bucket in self.buckets)

    @property
    def smallest(self) -> Bucket:
        return self.buckets[0]

    @property
    def largest(self) -> Bucket:
        return self.buckets[-1]

    def bucket(self, budget: int) -> Bucket:
        """The rung of exactly this budget.

        Raises:
            UsageError: if no rung has it; names the rungs there are.
        """
        for bucket in self.buckets:
            if bucket.budget == budget:
                return bucket
        raise UsageError(f"no rung of {budget} visual tokens; this bundle has {self.budgets}")

    def at_least(self, budget: float) -> Bucket:
        """The smallest rung with at least `budget` visual tokens, else the largest."""
        return next((b for b in self.buckets if b.budget >= budget), self.largest)


def parse_budgets(text: str | int | Iterable[int | str], full_tokens: int) -> tuple[int, ...]:
    """Normalise budgets to an ascending tuple without repeats.

    Accepts `"64,128,full"`, `64`, `(64, 128)`; `full` stands for all tokens of the model.

    Args:
        full_tokens: visual tokens of the uncompressed model (N).

    Raises:
        UsageError: for anything that is no integer in 1..N, or more than `limits.BUCKETS`.

    >>> parse_budgets("64, 32,full", 576)
    (32, 64, 576)
    """
    parts = text.split(",") if isinstance(text, str) else [text] if isinstance(text, int) else text
    budgets = sorted({_parse_budget(part, full_tokens) for part in parts})
    if not budgets:
        raise UsageError("no budgets given; name at least one, such as --budgets 64,128,full")
    if len(budgets) > limits.BUCKETS:
        raise UsageError(f"{len(budgets)} budgets; at most {limits.BUCKETS} fit in one bundle")
    return tuple(budgets)


def _parse_budget(part: int | str, full_tokens: int) -> int:
    word = str(part).strip()
    if word == "full":
        return full_tokens
    if not (word.isascii() and word.removeprefix("-").isdigit()):
        raise UsageError(
            f"budget {word!r} is no whole number; use numbers such as 64,128 or 'full'"
        )
    budget = int(word)
    if not 1 <= budget <= full_tokens:
        raise UsageError(
            f"budget {budget} is outside 1..{full_tokens}, the visual tokens of this model; "
            f"use 'full' for all of them"
        )
    return budget


def build_ladder(budgets: tuple[int, ...], prompt_tokens: int, new_tokens: int) -> Ladder:
    """One rung per budget, each with room for the same prompt and answer.

    Raises:
        UsageError: if prompt or answer length is outside the limits.
    """
    _require_within("prompt tokens", prompt_tokens, limits.PROMPT_TOKENS)
    _require_within("new tokens", new_tokens, limits.NEW_TOKENS)
    buckets = tuple(Bucket(k, prompt_tokens, k + prompt_tokens + new_tokens) for k in budgets)
    _require_within("cache slots", buckets[-1].cache_slots, limits.CACHE_SLOTS)
    return Ladder(buckets)


def _require_within(what: str, value: int, limit: int) -> None:
    if not 1 <= value <= limit:
        raise UsageError(f"{what} {value} is outside 1..{limit}")
