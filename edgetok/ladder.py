"""Buckets and ladders: every form in which a user may name budgets is normalised here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from edgetok import limits
from edgetok.errors import UsageError


@dataclass(frozen=True, slots=True, order=True)
class Rung:
    """One rung: export-time constants of the graphs that serve it.

    Args:
        budget: visual tokens that the language model sees (K).
        prompt_tokens: text tokens around them that fit, template included.
        cache_slots: KV cache rows; at least budget + prompt_tokens + 1.
        shorter: fewer text tokens for which it has prefill graphs too, ascending.
    """

    budget: int
    prompt_tokens: int
    cache_slots: int
    shorter: tuple[int, ...] = ()

    @property
    def prefill_tokens(self) -> int:
        """Rows of the longest prefill graph: visual tokens and padded text tokens."""
        return self.budget + self.prompt_tokens

    @property
    def new_tokens(self) -> int:
        """Tokens that can be generated after a full prompt."""
        return self.cache_slots - self.prefill_tokens


@dataclass(frozen=True, slots=True)
class Ladder:
    """The ascending rungs of a bundle."""

    rungs: tuple[Rung, ...]

    def __iter__(self) -> Iterator[Rung]:
        return iter(self.rungs)

    def __len__(self) -> int:
        return len(self.rungs)

    @property
    def budgets(self) -> tuple[int, ...]:
        return tuple(rung.budget for rung in self.rungs)

    @property
    def smallest(self) -> Rung:
        return self.rungs[0]

    @property
    def largest(self) -> Rung:
        return self.rungs[-1]

    def rung(self, budget: int) -> Rung:
        """The rung of exactly this budget.

        Raises:
            UsageError: if no rung has it; names the rungs there are.
        """
        for rung in self.rungs:
            if rung.budget == budget:
                return rung
        raise UsageError(f"no rung of {budget} visual tokens; this bundle has {self.budgets}")

    def at_least(self, budget: float) -> Rung:
        """The smallest rung with at least `budget` visual tokens, else the largest."""
        return next((b for b in self.rungs if b.budget >= budget), self.largest)


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


def parse_prompt_tokens(asked: str | int | Iterable[int | str]) -> tuple[int, ...]:
    """Normalise numbers of prompt tokens to an ascending tuple without repeats.

    Raises:
        UsageError: for anything that is no whole number within the limits, or too many of them.

    >>> parse_prompt_tokens("96, 24")
    (24, 96)
    """
    parts = asked.split(",") if isinstance(asked, str) else asked
    words = [str(part).strip() for part in ([parts] if isinstance(parts, int) else parts)]
    for word in words:
        if not (word.isascii() and word.removeprefix("-").isdigit()):
            raise UsageError(f"prompt tokens {word!r} are no whole number; write 96, or 24,96")
        _require_within("prompt tokens", int(word), limits.PROMPT_TOKENS)
    found = tuple(sorted(set(map(int, words))))
    if not 1 <= len(found) <= limits.PROMPT_GRAPHS:
        raise UsageError(
            f"{len(found)} numbers of prompt tokens; give 1 to {limits.PROMPT_GRAPHS}, such as "
            "--prompt-tokens 24,96"
        )
    return found


def build_ladder(
    budgets: Sequence[int], prompt_tokens: str | int | Iterable[int | str], new_tokens: int
) -> Ladder:
    """One rung per budget, each with room for the same prompts and answer.

    Raises:
        UsageError: if prompt or answer length is outside the limits.
    """
    *shorter, longest = parse_prompt_tokens(prompt_tokens)
    _require_within("new tokens", new_tokens, limits.NEW_TOKENS)
    rungs = tuple(Rung(k, longest, k + longest + new_tokens, tuple(shorter)) for k in budgets)
    _require_within("cache slots", rungs[-1].cache_slots, limits.CACHE_SLOTS)
    return Ladder(rungs)


def halve_prompt(rung: Rung, least: int) -> Rung:
    """A rung with graphs for prompts of a half and a quarter of its text tokens.

    Shorter ones than `least` are left out, and any that saves less than an eighth of the rows of
    the next longer one: it would take longer to load than it saves.

    >>> halve_prompt(Rung(16, 96, 240), 20).shorter, halve_prompt(Rung(576, 96, 800), 20).shorter
    ((24, 48), ())
    """
    found, rows = list[int](), rung.prefill_tokens
    for room in (rung.prompt_tokens // 2, rung.prompt_tokens // 4):
        if room >= least and 8 * (rung.budget + room) <= 7 * rows:
            found, rows = [room, *found], rung.budget + room
    return replace(rung, shorter=tuple(found))


def _require_within(what: str, value: int, limit: int) -> None:
    if not 1 <= value <= limit:
        raise UsageError(f"{what} {value} is outside 1..{limit}")
