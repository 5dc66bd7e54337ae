"""The gate: every graph against PyTorch, and the whole chain end to end, before publication."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from edgetok import names
from edgetok.bundle.manifest import Precision
from edgetok.errors import VerificationError
from edgetok.export.cases import Case
from edgetok.export.reference import Reference
from edgetok.export.runner import GraphRunner
from edgetok.ladder import Ladder

Array = npt.NDArray[Any]
PARITY_TOKENS = 12  # greedy tokens compared per case


class Limits(msgspec.Struct, frozen=True):
    """How far a graph may be from PyTorch. `max_abs` counts from magnitude 10 upwards relatively.

    Quantized graphs are held to the cosine of their outputs; how many greedy tokens they share with
    float32 is reported, not gated: it is a property of the model, for the user to judge.
    """

    max_abs: float | None
    cosine: float
    kept: float | None
    tokens: float | None


# fp32: ten times the largest difference seen on the demo model, from summation order alone.
LIMITS = {
    "fp32": Limits(max_abs=1e-4, cosine=0.999999, kept=1.0, tokens=1.0),
    "int8": Limits(max_abs=None, cosine=0.98, kept=None, tokens=None),
    "int4": Limits(max_abs=None, cosine=0.90, kept=None, tokens=None),
}


class Check(msgspec.Struct, frozen=True):
    """One comparison over all cases: the worst value, its limit, and whether it holds."""

    stage: str
    bucket: int | None
    output: str
    measure: str
    worst: float
    limit: float | None
    passed: bool


class ParityReport(msgspec.Struct, frozen=True):
    precision: Precision
    cases: int
    synthetic: bool
    checks: list[Check]


@dataclass
class Ledger:
    """Collects the worst of each measure."""

    limits: Limits
    _worst: dict[tuple[str, int | None, str, str], float] = field(default_factory=dict)

    def compare(self, stage: str, bucket: int | None, output: str, got: Array, want: Array) -> None:
        """Record distance and direction of `got` from `want`, arrays of one shape."""
        got, want = got.astype(np.float64), want.astype(np.float64)
        scale = max(1.0, float(np.abs(want).max(initial=0.0)) / 10)
        distance = float(np.abs(got - want).max(initial=0.0)) / scale
        self.record(stage, bucket, output, "max_abs", distance, max)
        norms = float(np.linalg.norm(got) * np.linalg.norm(want))
        cosine = float((got * want).sum()) / norms if norms else float(not (got - want).any())
        self.record(stage, bucket, output, "cosine", cosine, min)

    def record(
        self,
        stage: str,
        bucket: int | None,
        output: str,
        measure: str,
        value: float,
        worse: Callable[[float, float], float],
    ) -> None:
        key = (stage, bucket, output, measure)
        value = value if np.isfinite(value) else (np.inf if worse is max else -np.inf)
        self._worst[key] = worse(self._worst.get(key, value), value)

    def checks(self) -> list[Check]:
        return [self._check(key, value) for key, value in self._worst.items()]

    def _check(self, key: tuple[str, int | None, str, str], value: float) -> Check:
        stage, bucket, output, measure = key
        limit: float | None = getattr(self.limits, measure)
        fits = limit is None or (value <= limit if measure == "max_abs" else value >= limit)
        return Check(stage, bucket, output, measure, float(value), limit, bool(fits))


def limits_of(precision: Precision) -> Limits:
    """The limits of a precision: the looser of weights and cache."""
    if precision.weights == "fp32" and precision.kv == "int8":
        return LIMITS["int8"]
    return LIMITS[precision.weights]


def prove(
    reference: Reference,
    runner: GraphRunner,
    ladder: Ladder,
    cases: Sequence[Case],
    precision: Precision,
    *,
    synthetic: bool,
) -> ParityReport:
    """Compare graphs and chain on every case.

    Raises:
        VerificationError: if any measure is beyond its limit; names the worst three.
    """
    ledger = Ledger(limits_of(precision))
    for case in cases:
        want = reference.encode(case.pixels)
        got = runner.run("tower", None, {names.PIXELS: case.pixels.numpy()})
        for name, value in got.items():
            if not name.startswith("signal_"):
                ledger.compare("tower", None, name, value, want[name].numpy())
        for budget in ladder.budgets:
            _prove_rung(ledger, reference, runner, case, (want, got), budget)
    report = ParityReport(precision, len(cases), synthetic, ledger.checks())
    require_parity(report)
    return report


def _prove_rung(
    ledger: Ledger,
    reference: Reference,
    runner: GraphRunner,
    case: Case,
    tower: tuple[dict[str, torch.Tensor], dict[str, Array]],
    budget: int,
) -> None:
    want, text = reference.compress(tower[0], budget), reference.parts.text
    exact = {name: value.numpy() for name, value in tower[0].items()}
    got = runner.run("compress", budget, exact)
    _compare_kept(ledger, "compress", budget, got[names.KEPT], want[names.KEPT].numpy())
    # Rows can only be compared where the same tokens were kept.
    if (got[names.KEPT] == want[names.KEPT].numpy()).all():
        tokens, sizes = want[names.VISUAL_TOKENS].numpy(), want[names.SIZES].numpy()
        ledger.compare("compress", budget, names.VISUAL_TOKENS, got[names.VISUAL_TOKENS], tokens)
        ledger.compare("compress", budget, names.SIZES, got[names.SIZES], sizes)
    embeds = reference.embed(case.before, want[names.VISUAL_TOKENS], case.after)
    answer = reference.answer(embeds, PARITY_TOKENS)
    logits, ids = runner.answer(budget, embeds[0].numpy(), PARITY_TOKENS, text.stop_ids)
    steps = _common_steps(ids, answer.ids)  # later rows follow different tokens
    ledger.compare("prefill", budget, names.LOGITS, logits[0], answer.logits[0].numpy())
    if steps > 1:
        ledger.compare(
            "decode", budget, names.LOGITS, logits[1:steps], answer.logits[1:steps].numpy()
        )
    _compare_chain(ledger, reference, runner, case, tower[1], want, answer.ids, budget)


def _compare_chain(
    ledger: Ledger,
    reference: Reference,
    runner: GraphRunner,
    case: Case,
    tower: dict[str, Array],
    want: dict[str, torch.Tensor],
    ids: list[int],
    budget: int,
) -> None:
    """End to end: the graphs' own outputs feed the graphs behind them."""
    got = runner.run("compress", budget, tower)
    _compare_kept(ledger, "end to end", budget, got[names.KEPT], want[names.KEPT].numpy())
    tokens = torch.from_numpy(got[names.VISUAL_TOKENS])
    embeds = reference.embed(case.before, tokens, case.after)[0].numpy()
    stop_ids = reference.parts.text.stop_ids
    _, chain_ids = runner.answer(budget, embeds, PARITY_TOKENS, stop_ids)
    ledger.record("end to end", budget, "greedy", "tokens", agreement(chain_ids, ids), min)


def _compare_kept(ledger: Ledger, stage: str, budget: int, got: Array, want: Array) -> None:
    shared = len(np.intersect1d(got, want)) / len(np.unique(want))
    ledger.record(stage, budget, names.KEPT, "kept", shared, min)


def agreement(got: Sequence[int], want: Sequence[int]) -> float:
    """Share of greedy tokens before the first difference.

    >>> agreement([5, 7, 2], [5, 9, 2])
    0.3333333333333333
    """
    return _common_prefix(got, want) / max(len(got), len(want))


def _common_prefix(got: Sequence[int], want: Sequence[int]) -> int:
    return next(
        (i for i, (a, b) in enumerate(zip(got, want, strict=False)) if a != b),
        min(len(got), len(want)),
    )


def _common_steps(got: Sequence[int], want: Sequence[int]) -> int:
    """Steps whose logits follow the same tokens: one more than the tokens in common."""
    return min(_common_prefix(got, want) + 1, len(got), len(want))


def require_parity(report: ParityReport) -> None:
    """Raise unless every check passed.

    Raises:
        VerificationError: naming how many failed and the first three.
    """
    failed = [check for check in report.checks if not check.passed]
    if failed:
        shown = "; ".join(
            f"{c.stage}{'' if c.bucket is None else f' at {c.bucket}'}: {c.measure} of {c.output} "
            f"is {c.worst:.3g}, limit {c.limit:.3g}"
            for c in failed[:3]
        )
        raise VerificationError(
            f"{len(failed)} of {len(report.checks)} comparisons with PyTorch failed, nothing was "
            f"published: {shown}"
        )
