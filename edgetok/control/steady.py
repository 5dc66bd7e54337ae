"""Hysteresis: a rung is left for a larger one only after a while, for a smaller one at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgetok.control.limit import Limit
from edgetok.control.policies import Decision
from edgetok.errors import UsageError
from edgetok.ladder import Ladder

DWELL = 8


@dataclass(slots=True)
class Steady:
    """A limit that does not swing between two rungs, for streams of questions.

    What it chooses is within the limits whenever a rung is: the rung that it holds is given up as
    soon as it is not. A larger rung is taken when `dwell` questions in a row would have allowed
    one, and then the smallest that was allowed. So it goes up once in `dwell` questions at most,
    unless the rung that it holds breaks a limit that a larger one keeps.

    Args:
        limit: what must hold.
        dwell: questions in a row.

    Raises:
        UsageError: if `dwell` is below 1.
    """

    limit: Limit
    dwell: int = DWELL
    held: int | None = None
    _allowed: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.dwell < 1:
            raise UsageError(f"a dwell of {self.dwell} questions is none; 1 is the least")

    def choose(
        self, ladder: Ladder, signals: Mapping[str, float], question: Sequence[int] = ()
    ) -> Decision:
        wanted = self.limit.choose(ladder, signals, question)
        held, larger = self.held, wanted.rung.budget
        if held not in ladder.budgets or larger <= held or not self.limit.allows(held):
            return self._take(wanted)
        self._allowed.append(larger)
        if len(self._allowed) >= self.dwell:
            rung = ladder.rung(min(self._allowed))
            reason = f"{rung.budget} was within the limits {self.dwell} times in a row"
            return self._take(Decision(rung, reason))
        times = f"{len(self._allowed)} of {self.dwell} times"
        return Decision(ladder.rung(held), f"{held} is kept: a larger rung was allowed {times}")

    def _take(self, decision: Decision) -> Decision:
        self.held, self._allowed = decision.rung.budget, []
        return decision
