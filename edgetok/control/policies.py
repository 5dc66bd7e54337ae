"""Policies: from a ladder and the signals of one input to a bucket, with the reason in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from edgetok import names
from edgetok.control.table import BenchTable, Row
from edgetok.errors import UsageError
from edgetok.ladder import Bucket, Ladder


@dataclass(frozen=True, slots=True)
class Decision:
    """A bucket, and one sentence for people that says why.

    Args:
        review: asked how sure the answer is (`names.ANSWER_SIGNALS`), gives None to take it, or
            the rung to ask next; None where any answer is taken.
    """

    bucket: Bucket
    reason: str
    review: Callable[[Mapping[str, float]], Decision | None] | None = None


class Policy(Protocol):
    """A rule that always finds a bucket of the ladder.

    `question` are the token ids of the user's own text.
    """

    def choose(
        self, ladder: Ladder, signals: Mapping[str, float], question: Sequence[int] = ()
    ) -> Decision: ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """The rung that the user asked for."""

    budget: int

    def choose(
        self, ladder: Ladder, signals: Mapping[str, float], question: Sequence[int] = ()
    ) -> Decision:
        """Raises UsageError if the ladder has no such rung."""
        return Decision(ladder.bucket(self.budget), f"{self.budget} visual tokens were asked for")


@dataclass(frozen=True, slots=True)
class Largest:
    """The rung with the most tokens: the default, which loses nothing."""

    def choose(
        self, ladder: Ladder, signals: Mapping[str, float], question: Sequence[int] = ()
    ) -> Decision:
        bucket = ladder.largest
        return Decision(bucket, f"no limit was given, so the largest rung of {bucket.budget}")


@dataclass(frozen=True, slots=True)
class Elbow:
    """The smallest rung that holds the tokens before the elbow of the CLS-similarity curve."""

    def choose(
        self, ladder: Ladder, signals: Mapping[str, float], question: Sequence[int] = ()
    ) -> Decision:
        wanted = signals.get(names.SIGNAL_ELBOW, math.nan)
        if not math.isfinite(wanted):  # a damaged signal must not cost quality
            bucket = ladder.largest
            return Decision(
                bucket, f"the image gave no elbow signal, so the largest rung of {bucket.budget}"
            )
        bucket = ladder.at_least(wanted)
        relation = (
            "the smallest rung that holds" if bucket.budget >= wanted else "the largest, below"
        )
        return Decision(
            bucket,
            f"the CLS-similarity curve bends at {wanted:.0f} tokens; "
            f"{bucket.budget} is {relation} them",
        )


@dataclass(frozen=True, slots=True)
class Limit:
    """The largest rung that was measured to stay within the limits.

    Where none does, it takes the smallest rung, and the reason says by how much that misses: a
    running system gets an answer, not an error. A rung that was not measured is never promised.

    Args:
        table: measurements of this bundle on this device.
        max_ttft_ms: limit for the 95th percentile of the time to first token.
        max_memory_mib: limit for the peak memory of the process.

    Raises:
        UsageError: if there is no limit, or one is not a positive number.
    """

    table: BenchTable
    max_ttft_ms: float | None = None
    max_memory_mib: float | None = None

    def __post_init__(self) -> None:
        given = {"--max-ttft-ms": self.max_ttft_ms, "--max-memory-mib": self.max_memory_mib}
        if all(value is None for value in given.values()):
            raise UsageError(f"a limit policy needs {' or '.join(given)}")
        for option, value in given.items():
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"{option} {value} is no positive number")

    def choose(
        self, ladder: Ladder, signals: Mapping[str, float], question: Sequence[int] = ()
    ) -> Decision:
        for bucket in reversed(ladder.buckets):
            row = self.table.row(bucket.budget)
            if row is not None and not self._misses(row):
                return Decision(bucket, f"{bucket.budget} is the largest rung {self._within(row)}")
        bucket = ladder.smallest
        row = self.table.row(bucket.budget)
        missed = (
            " and ".join(self._misses(row)) if row else "it was not measured; run edgetok bench"
        )
        return Decision(
            bucket, f"no rung is within the limits, so the smallest of {bucket.budget}: {missed}"
        )

    def _comparisons(self, row: Row) -> list[tuple[str, float, float, str]]:
        """What is measured, its value, its limit and its unit, for each limit given."""
        both = [
            ("p95 time to first token", row.ttft_ms_p95, self.max_ttft_ms, "ms"),
            ("memory", row.memory_mib, self.max_memory_mib, "MiB"),
        ]
        return [
            (what, value, limit, unit) for what, value, limit, unit in both if limit is not None
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
