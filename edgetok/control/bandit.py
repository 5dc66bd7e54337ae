"""A bandit among certified policies: the quickest one at present, whatever heat and load do.

Experimental: no verb uses it (docs/stability.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgetok.control.policies import Decision, Policy
from edgetok.errors import UsageError
from edgetok.ladder import Ladder


@dataclass(slots=True)
class Bandit:
    """Discounted UCB (arXiv 0805.3415) on the time of answers, lower is better.

    Which policy decides depends on earlier times alone and never on the question at hand. So where
    each policy was certified for the same risk, or is the full rung, the expected loss of every
    answer is a mixture of theirs and holds the same limit: exploring cannot break the promise.

    Args:
        policies: certified for the same risk, or `Fixed` of the full rung, which loses nothing.
        discount: what an old time is worth one answer later; 0.99 remembers about a hundred.
        width: how much doubt counts, in units of the spread of the times.

    Raises:
        UsageError: if there are no policies, or `discount` is outside 0..1.
    """

    policies: Sequence[Policy]
    discount: float = 0.99
    width: float = 0.6
    chosen: int = 0
    _counts: list[float] = field(default_factory=list)
    _sums: list[float] = field(default_factory=list)
    _squares: float = 0.0

    def __post_init__(self) -> None:
        if not self.policies:
            raise UsageError("a bandit needs policies to choose from; give one or more")
        if not 0 < self.discount < 1:
            raise UsageError(f"a discount of {self.discount} is outside 0..1, both ends excluded")
        self._counts = [0.0] * len(self.policies)
        self._sums = [0.0] * len(self.policies)

    def choose(
        self, ladder: Ladder, signals: Mapping[str, float], question: Sequence[int] = ()
    ) -> Decision:
        """What the policy says that seems quickest, doubts considered; each is tried once first."""
        self.chosen = min(range(len(self.policies)), key=self._hope)
        return self.policies[self.chosen].choose(ladder, signals, question)

    def note(self, ms: float) -> None:
        """Learn what the answer took that was decided last; a time that is none is forgotten."""
        if not (math.isfinite(ms) and ms >= 0):
            return
        self._counts = [self.discount * count for count in self._counts]
        self._sums = [self.discount * total for total in self._sums]
        self._squares = self.discount * self._squares + ms * ms
        self._counts[self.chosen] += 1
        self._sums[self.chosen] += ms

    def _hope(self, policy: int) -> float:
        """The least that a time of this policy may be, as far as is known."""
        count, total = self._counts[policy], sum(self._counts)
        if count < 1e-9:
            return -math.inf
        mean = sum(self._sums) / total
        spread = math.sqrt(max(0.0, self._squares / total - mean * mean))
        doubt = self.width * spread * math.sqrt(math.log(max(total, math.e)) / count)
        return self._sums[policy] / count - doubt
