"""Limits of a parity check, the worst of each measure, and what is reported of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from edgetok.bundle.manifest import Precision
from edgetok.errors import VerificationError
from edgetok.export.parity.inputs import InputReport

Array = npt.NDArray[Any]


Rounding = Literal["nearest", "gptq"]


class Limits(msgspec.Struct, frozen=True):
    """How far a graph may be from PyTorch; None is reported and not gated.

    `max_abs` counts relatively from a magnitude of 10 upwards. Quantized graphs are held against
    PyTorch with the same dequantized weights (`edgetok.export.lowering.rounding`). `kept` and
    `tokens` compare the chain end to end with the float32 model: there, what quantization costs is
    a property of the model, which the report states for the user to judge. `decided` is 0 where
    PyTorch itself leaves the choice open (`edgetok.export.parity.undecided`); `pooled` is of towers
    that reduce (`edgetok.export.parity.tower_reducing`).
    """

    max_abs: float | None
    cosine: float
    kept: float | None
    tokens: float | None
    pooled: float = 0.99
    decided: float | None = None


# slots: a row that lies between two levels may be rounded to either; one level of 127 is all.
# fp32: summation order alone makes up to 8e-5 on the demo model (benchmarks/parity.py).
# Quantized: int8 activations and cache rows are all that is left; a wrong weight breaks this.
LIMITS = {
    "fp32": Limits(max_abs=1e-4, cosine=0.999999, kept=1.0, tokens=1.0),
    "slots": Limits(max_abs=None, cosine=0.9999, kept=None, tokens=None),
    "quantized": Limits(max_abs=None, cosine=0.98, kept=None, tokens=None),
}


class Check(msgspec.Struct, frozen=True):
    """One comparison over all cases: the worst value, its limit, and whether it holds."""

    stage: str
    budget: int | None
    output: str
    measure: str
    worst: float
    limit: float | None
    passed: bool


class ParityReport(msgspec.Struct, frozen=True):
    """What `reports/parity.json` holds.

    `rounding` says how weights of 4 bits were rounded: to the `nearest` level of their blocks, or
    by `gptq` on samples; null where there are none.
    """

    precision: Precision
    rounding: Rounding | None
    cases: int
    synthetic: bool
    inputs: InputReport
    checks: list[Check]


@dataclass
class Ledger:
    """Collects the worst of each measure."""

    limits: Limits
    _worst: dict[tuple[str, int | None, str, str], float] = field(default_factory=dict)

    def compare(self, stage: str, budget: int | None, output: str, got: Array, want: Array) -> None:
        """Record distance and direction of `got` from `want`, arrays of one shape."""
        got, want = got.astype(np.float64), want.astype(np.float64)
        scale = max(1.0, float(np.abs(want).max(initial=0.0)) / 10)
        distance = float(np.abs(got - want).max(initial=0.0)) / scale
        self.record(stage, budget, output, "max_abs", distance, max)
        norms = float(np.linalg.norm(got) * np.linalg.norm(want))
        cosine = float((got * want).sum()) / norms if norms else float(not (got - want).any())
        self.record(stage, budget, output, "cosine", cosine, min)

    def record(
        self,
        stage: str,
        budget: int | None,
        output: str,
        measure: str,
        value: float,
        worse: Callable[[float, float], float],
    ) -> None:
        key = (stage, budget, output, measure)
        value = value if np.isfinite(value) else (np.inf if worse is max else -np.inf)
        self._worst[key] = worse(self._worst.get(key, value), value)

    def checks(self) -> list[Check]:
        return [self._check(key, value) for key, value in self._worst.items()]

    def _check(self, key: tuple[str, int | None, str, str], value: float) -> Check:
        stage, budget, output, measure = key
        limit: float | None = getattr(self.limits, measure)
        fits = limit is None or (value <= limit if measure == "max_abs" else value >= limit)
        return Check(stage, budget, output, measure, float(value), limit, bool(fits))


def require_parity(checks: Sequence[Check]) -> None:
    """Raise unless every check passed.

    Raises:
        VerificationError: naming how many failed and the first three.
    """
    failed = [check for check in checks if not check.passed]
    if failed:
        shown = "; ".join(
            f"{c.stage}{'' if c.budget is None else f' at {c.budget}'}: {c.measure} of {c.output} "
            f"is {c.worst:.3g}, limit {c.limit:.3g}"
            for c in failed[:3]
        )
        raise VerificationError(
            f"{len(failed)} of {len(checks)} comparisons with PyTorch failed, nothing was "
            f"published: {shown}"
        )
