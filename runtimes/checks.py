"""Comparisons of a verification: measures, their limits, and which failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np
from numpy.typing import NDArray

from edgetok.errors import VerificationError


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison. `value` must not exceed `tolerance`; 0 means equal."""

    case: str
    budget: int | None
    what: str
    value: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.value <= self.tolerance  # False for NaN


@dataclass(frozen=True, slots=True)
class Report:
    """All comparisons of a verification."""

    checks: tuple[Check, ...]

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)

    def require_passed(self) -> None:
        """Raises VerificationError naming the first failures."""
        if self.failures:
            listed = "; ".join(_describe(check) for check in self.failures[:5])
            raise VerificationError(
                f"{len(self.failures)} of {len(self.checks)} checks failed: {listed}; "
                f"export again with this device's onnxruntime, or upgrade it"
            )


def relative(difference: float, spread: float) -> float:
    """A difference in units of `spread`; golden logits that are all alike allow none."""
    if spread > 0 or np.isnan(spread):
        return difference / spread
    return 0.0 if difference == 0 else float("inf")


def largest_difference(actual: NDArray[np.float32], golden: NDArray[np.float32]) -> float:
    """Largest absolute difference; infinite for different shapes, NaN if one holds NaN."""
    if actual.shape != golden.shape:
        return float("inf")
    return float(np.abs(actual.astype(np.float64) - golden).max(initial=0))


def cosine(actual: NDArray[np.float32], golden: NDArray[np.float32]) -> float:
    """Cosine of two vectors [W]; NaN if one is zero or holds NaN."""
    a, b = actual.astype(np.float64), golden.astype(np.float64)
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norms) if norms else float("nan")


def mismatches(actual: Sequence[int], wanted: Sequence[int]) -> float:
    """How many places differ, missing ones included."""
    differing = sum(a != b for a, b in zip(actual, wanted, strict=False))
    return float(differing + abs(len(actual) - len(wanted)))


def displaced(actual: Sequence[int], golden: NDArray[np.int64]) -> float:
    """Share of the golden tokens that are missing or out of order; 0 means equal."""
    wanted = golden.tolist()
    if list(actual) == wanted:
        return 0.0
    blocks = SequenceMatcher(None, list(actual), wanted, autojunk=False).get_matching_blocks()
    return 1 - sum(block.size for block in blocks) / max(len(actual), len(wanted))


def _describe(check: Check) -> str:
    where = check.case if check.budget is None else f"{check.case} at {check.budget} tokens"
    return f"{check.what} of {where} off by {check.value:.3g} (at most {check.tolerance:.3g})"
