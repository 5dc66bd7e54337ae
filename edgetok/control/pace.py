"""Pace: how much longer answers take now than when the table was measured, learned as they come."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgetok.control.table import BenchTable

_RISE, _FALL = 0.6, 0.03  # a slow answer is believed at once, quick ones only in numbers
_OWN = 0.1  # of what is left, how much is put down to the rung itself
_FORGET = 0.98  # what a rung had for itself fades while the others answer
_MOST = math.log(64.0)  # beyond this no rung is a way out
_MISSES = 0.002  # share of answers that may take longer than was expected of them
_STEP = 0.1  # of the margin, in the logarithm of the time


@dataclass(slots=True)
class Pace:
    """The measured table, corrected by the answers since: load and heat slow a machine down.

    All in logarithms of the measured time to first token over the table's 95th percentile. Three
    parts are added: what all rungs share (an average that rises quickly and falls slowly, so an
    upper one), what a rung has for itself, and a margin that grows with every answer that took
    longer than expected and shrinks a little with every other one (adaptive conformal inference,
    arXiv 2106.00193), which holds the share of such answers near 0.2 % whatever the noise is like.
    Nothing is ever expected to be quicker than it was measured. Costs a few additions per answer.

    Args:
        table: of this bundle and device.
    """

    table: BenchTable
    _shared: float = 0.0
    _own: dict[int, float] = field(default_factory=dict)
    _margin: float = 0.0

    def factor(self, budget: int) -> float:
        """By how much to multiply the table's 95th percentile of this rung; 1 at least."""
        return math.exp(min(_MOST, max(0.0, self._expected(budget) + self._margin)))

    def note(self, budget: int, ttft_ms: float) -> None:
        """Learn from an answer; rungs that the table lacks and times that are none say nothing."""
        row = self.table.row(budget)
        if row is None or not (row.ttft_ms_p95 > 0 and math.isfinite(ttft_ms) and ttft_ms > 0):
            return
        ratio = math.log(ttft_ms) - math.log(row.ttft_ms_p95)  # a quotient might be 0
        ratio = max(-_MOST, min(_MOST, ratio))
        missed = ttft_ms > row.ttft_ms_p95 * self.factor(budget)
        self._margin = min(_MOST, max(0.0, self._margin + _STEP * (missed - _MISSES)))
        left = ratio - self._expected(budget)
        self._shared += (_RISE if left > 0 else _FALL) * left
        own = self._own.get(budget, 0.0)
        self._own = {b: _FORGET * value for b, value in self._own.items()}
        self._own[budget] = own + _OWN * (ratio - self._shared - own)

    def _expected(self, budget: int) -> float:
        return self._shared + max(0.0, self._own.get(budget, 0.0))


def is_comparable(timings_ms: Mapping[str, float], tried: int) -> bool:
    """Whether a time to first token is of what the table measured: the image encoded, one rung."""
    return tried == 1 and {"tower", "ttft"} <= timings_ms.keys()
