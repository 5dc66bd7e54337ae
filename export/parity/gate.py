"""The gate: every graph against PyTorch, and the whole chain end to end, before publication."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from edgetok import names
from edgetok.bundle.manifest import Precision
from edgetok.errors import VerificationError
from edgetok.export.caches.evicting.parity import prove_cache, visual_rows
from edgetok.export.caches.kivi.reference import KiviReference
from edgetok.export.caches.ring_options import RINGED
from edgetok.export.caches.ring_parity import prove_kivi
from edgetok.export.caches.think.parity import prove_pruned
from edgetok.export.caches.think.reference import PrunedReference
from edgetok.export.caches.tidaldecode.parity import prove_reads
from edgetok.export.caches.tidaldecode.reference import ReadingReference
from edgetok.export.caches.zipcache.reference import ZipReference
from edgetok.export.cases import Case
from edgetok.export.lowering.rounding import hold_quantized
from edgetok.export.parity.agreement import PARITY_TOKENS, agreement, common_steps
from edgetok.export.parity.extend import prove_extend
from edgetok.export.parity.prompt_reduced import prove_prefill
from edgetok.export.parity.sessions import GraphRunner, as_arrays
from edgetok.export.parity.tower_reducing import prove_reduced
from edgetok.export.parity.undecided import is_as_open, nudged_features, nudged_pictures, shared
from edgetok.export.reference.model import Reference
from edgetok.export.reference.prompt_reduced import PrefillReference
from edgetok.kv.stores import think
from edgetok.ladder import Ladder
from edgetok.prefill import Prefill

Array = npt.NDArray[Any]
UNROUNDED = ("fp32", think.NAME)  # caches that hold float32


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


@dataclass(frozen=True)
class Expected:
    """What the float32 model does with one case at one budget."""

    kept: Array
    ids: list[int]


def prove(
    reference: Reference,
    runner: GraphRunner,
    ladder: Ladder,
    cases: Sequence[Case],
    precision: Precision,
    *,
    synthetic: bool,
    prefill: Prefill | None = None,
) -> ParityReport:
    """Compare graphs and chain on every case. Rounds the reference's weights as the graphs' are."""
    ledger = Ledger(limits_of(precision))
    expected = [expect_all(reference, case, ladder, prefill) for case in cases]
    hold_quantized(reference.parts, precision.weights)
    one_tower = reference.method.inside is None
    for case, answers in zip(cases, expected, strict=True):
        prompt = runner.read_prompt([*case.before, *case.after], case.question)
        for budget, answer in zip(ladder.budgets, answers, strict=True):
            if not one_tower or budget == ladder.smallest.budget:
                want, got, followed = prove_vision(ledger, reference, runner, case, budget)
            prove_compress(ledger, reference, runner, want, budget)
            embeds = embed_case(reference, case, want, budget)
            visual = visual_rows(len(case.before), budget)
            made = made_case(reference, want, budget)
            if prefill is None:
                prove_decoder(ledger, reference, runner, embeds, visual, budget, made)
            else:
                reduced = PrefillReference(reference.parts.text, prefill, budget)
                followed &= prove_prefill(ledger, reduced, runner, embeds, visual.start, budget)
            if runner.extends:
                by_steps = reference.cache is not None  # its rows are coarse
                start = visual.start
                placed = start, budget, made
                prove_extend(ledger, reference, runner, embeds, *placed, by_steps=by_steps)
            if followed:
                prove_chain(ledger, reference, runner, case, got | prompt, answer, budget)
    return ParityReport(precision, len(cases), synthetic, ledger.checks())


def limits_of(precision: Precision) -> Limits:
    exact = precision.weights == "fp32" and precision.kv in UNROUNDED
    grouped = precision.weights == "fp32" and precision.kv in RINGED
    return LIMITS["fp32" if exact else "slots" if grouped else "quantized"]


def prove_vision(
    ledger: Ledger, reference: Reference, runner: GraphRunner, case: Case, budget: int
) -> tuple[dict[str, torch.Tensor], dict[str, Array], bool]:
    """What PyTorch and the tower's graph see, and whether what follows can be compared too."""
    want = reference.look(case, budget)
    got = runner.look(budget, case.pixels.numpy())
    if reference.method.inside is None:
        prove_tower(ledger, got, want)
        weights = {names.PICTURE_WEIGHTS: want[names.PICTURE_WEIGHTS].numpy()}
        return want, got | weights, True
    return want, got, prove_reduced(ledger, reference, case.pixels, budget, got, want)


def prove_tower(ledger: Ledger, got: dict[str, Array], want: dict[str, torch.Tensor]) -> None:
    for name, value in got.items():
        if not name.startswith("signal_"):
            ledger.compare("tower", None, name, value, want[name].numpy())


def expect_all(
    reference: Reference, case: Case, ladder: Ladder, prefill: Prefill | None = None
) -> list[Expected]:
    """What is expected at each budget; the tower looks once where all budgets share it."""
    if reference.method.inside is not None:
        looks = [reference.look(case, budget) for budget in ladder.budgets]
    else:
        looks = [reference.look(case)] * len(ladder.budgets)
    return [
        _expect(reference, case, seen, budget, prefill)
        for budget, seen in zip(ladder.budgets, looks, strict=True)
    ]


def _expect(
    reference: Reference, case: Case, seen: dict[str, Any], budget: int, prefill: Prefill | None
) -> Expected:
    out = reference.compress(seen, budget)
    embeds = reference.embed(case.before, out[names.VISUAL_TOKENS], case.after)
    kept, visual = out[names.KEPT].numpy(), visual_rows(len(case.before), budget)
    if prefill is None:
        answer = reference.answer(embeds, PARITY_TOKENS, visual, made=out)
        return Expected(kept, answer.ids)
    reduced = PrefillReference(reference.parts.text, prefill, budget)
    return Expected(kept, reduced.answer(embeds, len(case.before), PARITY_TOKENS).ids)


def prove_compress(
    ledger: Ledger,
    reference: Reference,
    runner: GraphRunner,
    seen: dict[str, torch.Tensor],
    budget: int,
) -> None:
    """The compress graph on PyTorch's own features, so that both choose from the same scores."""
    want = reference.compress(seen, budget)
    got = runner.run("compress", budget, runner.pad_prompt({n: v.numpy() for n, v in seen.items()}))
    kept = want[names.KEPT].numpy()
    same = (got[names.KEPT] == kept).all()
    if not same and is_as_open(reference, nudged_features(seen), budget, kept, got[names.KEPT]):
        ledger.record("compress", budget, names.KEPT, "decided", 0.0, min)
        return
    ledger.record("compress", budget, names.KEPT, "cosine", float(same), min)
    if same:  # rows can only be compared where the same tokens were kept
        for name in [name for name in got if name != names.KEPT]:
            ledger.compare("compress", budget, name, got[name], want[name].numpy())


def embed_case(
    reference: Reference, case: Case, seen: dict[str, torch.Tensor], budget: int
) -> torch.Tensor:
    tokens = reference.compress(seen, budget)[names.VISUAL_TOKENS]
    return reference.embed(case.before, tokens, case.after)


def made_case(
    reference: Reference, seen: dict[str, torch.Tensor], budget: int
) -> dict[str, torch.Tensor] | None:
    """What compress makes, where the decoder reads more of tokens than their rows."""
    return reference.compress(seen, budget) if reference.parts.text.mrope_axes else None


def prove_decoder(
    ledger: Ledger,
    reference: Reference,
    runner: GraphRunner,
    embeds: torch.Tensor,
    visual: range,
    budget: int,
    made: dict[str, torch.Tensor] | None = None,
) -> None:
    """Prefill and decode on PyTorch's own rows."""
    if isinstance(reference.cache, PrunedReference):
        prove_pruned(ledger, reference.cache, runner, embeds, budget)
        return
    if isinstance(reference.cache, ReadingReference):
        prove_reads(ledger, reference.cache, runner, embeds, visual.start, budget)
        return
    if reference.cache is not None:
        for long in (False, True)[: 1 if runner.room is None else 2]:
            prove_cache(ledger, reference.cache, runner, embeds, visual, budget, long=long)
        return
    if isinstance(reference, KiviReference | ZipReference):
        prove_kivi(ledger, reference, runner, embeds, budget)
        return
    want = reference.answer(embeds, PARITY_TOKENS, visual, made=made)
    stop_ids, rows = reference.parts.text.stop_ids, embeds[0].numpy()
    told = as_arrays(made)
    logits, ids = runner.answer(budget, rows, PARITY_TOKENS, stop_ids, visual.start, made=told)
    steps = common_steps(ids, want.ids)  # later rows follow different tokens
    for step in range(steps):
        stage = "decode" if step else "prefill"
        ledger.compare(stage, budget, names.LOGITS, logits[step], want.logits[step].numpy())


def prove_chain(
    ledger: Ledger,
    reference: Reference,
    runner: GraphRunner,
    case: Case,
    seen: dict[str, Array],
    expected: Expected,
    budget: int,
) -> None:
    """End to end: each graph reads what the graph before it made."""
    out = runner.run("compress", budget, seen)
    same = shared(out[names.KEPT], expected.kept)
    if ledger.limits.kept is not None and same < 1:
        pictures = nudged_pictures(reference, case, budget)
        if is_as_open(reference, pictures, budget, expected.kept, out[names.KEPT]):
            ledger.record("end to end", budget, names.KEPT, "decided", 0.0, min)
            return
    ledger.record("end to end", budget, names.KEPT, "kept", same, min)
    tokens = torch.from_numpy(out[names.VISUAL_TOKENS])
    embeds = reference.embed(case.before, tokens, case.after)[0].numpy()
    stop_ids, start = reference.parts.text.stop_ids, len(case.before)
    _, ids = runner.answer(budget, embeds, PARITY_TOKENS, stop_ids, start, made=out)
    ledger.record("end to end", budget, "greedy", "tokens", agreement(ids, expected.ids), min)


class Checked(Protocol):
    """A report of any kind of bundle."""

    @property
    def checks(self) -> list[Check]: ...


def require_parity(report: Checked) -> None:
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
