"""Limits: the largest rung that was measured to stay within them, corrected by what is seen now."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgetok.control.pace import Pace
from edgetok.control.policies import Decision
from edgetok.control.table import BenchTable, Row
from edgetok.errors import UsageError
from edgetok.ladder import Ladder


@dataclass(frozen=True, slots=True)
class Limit:
    """The largest rung that was measured to stay within the limits.

    Where none does, it takes the smallest rung, and the reason says by how much that misses: a
    running system gets an answer, not an error. A rung that was not measured is never promised.

    Args:
        table: measurements of this bundle on this device.
        max_ttft_ms: limit for the 95th percentile of the time to first token.
        max_memory_mib: limit for the peak memory of the process.
        max_energy_j: limit for the energy of an answer, where `edgetok bench` found a meter.
        pace: how much slower the machine is now; as measured when None.

    Raises:
        UsageError: if there is no limit, one is not a positive number, or energy was not measured.
    """

    table: BenchTable
    max_ttft_ms: float | None = None
    max_memory_mib: float | None = None
    max_energy_j: float | None = None
    pace: Pace | None = None

    def __post_init__(self) -> None:
        given = {
            "--max-ttft-ms": self.max_ttft_ms,
            "--max-memory-mib": self.max_memory_mib,
            "--max-energy-j": self.max_energy_j,
        }
        if all(value is None for value in given.values()):
            raise UsageError(f"a limit policy needs one of {', '.join(given)}")
        for option, value in given.items():
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"{option} {value} is no positive number")
        if self.max_energy_j is not None and all(row.energy_j is None for row in self.table.rows):
            raise UsageError(
                "--max-energy-j needs measured energy, and `edgetok bench` found no meter on this "
                "device (`edgetok doctor` says which it looks for); limit time or memory instead"
            )

    def choose(
        self, ladder: Ladder, signals: Mapping[str, float], question: Sequence[int] = ()
    ) -> Decision:
        for rung in reversed(ladder.rungs):
            row = self.table.row(rung.budget)
            if row is not None and not self._misses(row):
                return Decision(rung, f"{rung.budget} is the largest rung {self._within(row)}")
        rung = ladder.smallest
        row = self.table.row(rung.budget)
        missed = (
            " and ".join(self._misses(row)) if row else "it was not measured; run edgetok bench"
        )
        return Decision(
            rung, f"no rung is within the limits, so the smallest of {rung.budget}: {missed}"
        )

    def allows(self, budget: int) -> bool:
        """Whether this rung was measured to stay within the limits, at the pace of now."""
        row = self.table.row(budget)
        return row is not None and not self._misses(row)

    def _comparisons(self, row: Row) -> list[tuple[str, float, float, str]]:
        """What is measured, its value, its limit and its unit, for each limit given."""
        factor = 1.0 if self.pace is None else self.pace.factor(row.budget)
        slower = "" if factor < 1.005 else f", {factor:.2f} times as slow now,"
        energy = math.inf if row.energy_j is None else row.energy_j  # an unknown one is no promise
        everything = [
            (f"p95 time to first token{slower}", factor * row.ttft_ms_p95, self.max_ttft_ms, "ms"),
            ("memory", row.memory_mib, self.max_memory_mib, "MiB"),
            ("energy", energy, self.max_energy_j, "J"),
        ]
        return [
            (what, value, limit, unit)
            for what, value, limit, unit in everything
            if limit is not None
        ]

    def _misses(self, row: Row) -> list[str]:
        return [
            f"{what} {value:.4g} {unit} is {value - limit:.3g} {unit} over the limit of {limit:.4g}"
            for what, value, limit, unit in self._comparisons(row)
            if value > limit
        ]

    def _within(self, row: Row) -> str:
        return " and ".join(
            f"with {what} {value:.4g} {unit} within {limit:.4g}"
            for what, value, limit, unit in self._comparisons(row)
        )
