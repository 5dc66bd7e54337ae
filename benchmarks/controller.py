"""Whether certified controllers keep their promise and what they save, on fresh questions.

    python benchmarks/controller.py --json docs/results/controller.json

Every rung answers fresh questions, one per picture, of scenes that no method, policy or threshold
was chosen on. They are a population whose risks are known exactly. Calibrations are drawn from it
with replacement, so each is independent of the others, and each certifies a controller of its own;
the risk of that controller over the whole population says whether the promise held.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

import common
import msgspec
import numpy as np

import edgetok
from edgetok import names
from edgetok.calibration.certify import Aim, certify
from edgetok.calibration.outcomes import Outcomes, collect
from edgetok.calibration.records import Record, ask_rungs
from edgetok.control import Certified
from edgetok.control.certified import list_tried
from edgetok.rules import Controller

BUDGETS = (16, 32, 64, 128, 576)
FIRST_SCENE = 500_000  # of the split; nothing else looks behind its first thousands
DIGEST = "0" * 64


@dataclass(frozen=True)
class Kept:
    """A calibration's controller over the whole population."""

    risk: float
    tokens: float
    ms: float
    right: float


def main() -> None:
    defaults = {"questions": 2000, "draws": 100, "samples": 1000, "risk": 0.02}
    options = common.arguments(__doc__, method="vtc-cls", threads=2, **defaults)
    bundle = common.demo_bundle(options.model, method=options.method, budgets=BUDGETS)
    samples = common.demo_samples("evaluate", options.questions, 1, FIRST_SCENE)
    model = edgetok.load(bundle, threads=options.threads)
    path = common.OUT / f"controller-{options.method}-{options.questions}.jsonl"
    asked = ask_rungs(model, samples, BUDGETS, path, _show, time.perf_counter)
    # Records of an older version lack what the thumbnail shows; the pictures are still there.
    records = [
        r if r.thumbnail else msgspec.structs.replace(r, thumbnail=model.describe(s.image))
        for r, s in zip(asked, samples, strict=True)
    ]
    population = collect(records, BUDGETS, "wrong")
    kept = [
        _calibrate(records, population, model.ladder, options, seed)
        for seed in range(options.draws)
    ]
    rows = [*_rungs(population), _oracle(population)]
    rows.append(_summary(kept, population, options))
    aim = f"risk {100 * options.risk:g} %, 95 % sure"
    title = (
        f"{len(records)} fresh questions; {options.draws} calibrations on {options.samples}, {aim}"
    )
    common.report(title, rows, options.json)


def _show(doing: str, share: float) -> None:
    print(f"\r{doing} {share:.1%}", end="", file=sys.stderr, flush=True)


def _calibrate(
    records: list[Record], population: Outcomes, ladder: Any, options: Any, seed: int
) -> Kept:
    """Draw samples with replacement, certify, and follow the controller over all questions."""
    drawn = np.random.default_rng(seed).integers(0, len(records), options.samples)
    # Drawn twice is drawn twice: two questions, not two questions about one picture.
    own = [
        msgspec.structs.replace(records[i], sample=f"{n}", image=f"{n}")
        for n, i in enumerate(drawn.tolist())
    ]
    found = certify(own, BUDGETS, Aim(options.risk, seed=seed), DIGEST, "ort")
    kept = _follow(found.controller, population, ladder)
    print(f"{seed}: {found.path}: {kept}", file=sys.stderr, flush=True)
    return kept


def _follow(controller: Controller | None, population: Outcomes, ladder: Any) -> Kept:
    lost, tokens, ms, right = [], [], [], []
    for i, record in enumerate(population.records):
        tried = [BUDGETS[-1]]
        if controller is not None:
            answers = {b: record.rungs[b].signals for b in BUDGETS}
            policy = Certified(controller)
            signals = dict(record.signals)
            if controller.thumbnail is not None:
                complexity = controller.thumbnail.complexity(record.thumbnail)
                signals[names.SIGNAL_COMPLEXITY] = complexity
            tried = list_tried(policy, ladder, signals, record.question, answers)
        rung = BUDGETS.index(tried[-1])
        lost.append(bool(population.lost[i, rung]))
        right.append(bool(population.right[i, rung]))
        tokens.append(sum(tried))
        ms.append(sum(record.rungs[b].ms for b in tried))
    return Kept(*(statistics.fmean(values) for values in (lost, tokens, ms, right)))


def _rungs(population: Outcomes) -> list[dict[str, Any]]:
    lost, right, ms = (a.mean(0) for a in (population.lost, population.right, population.ms))
    return [
        _row(f"{budget} for all", Kept(lost[i], budget, ms[i], right[i]))
        for i, budget in enumerate(population.budgets)
    ]


def _oracle(population: Outcomes) -> dict[str, Any]:
    """The smallest rung that answers right, were it known; the smallest where none is."""
    smallest = np.where(population.right.any(1), population.right.argmax(1), 0)
    at = np.arange(len(population)), smallest
    tokens = np.array(population.budgets)[smallest].mean()
    right = float(population.right.any(1).mean())
    return _row("oracle", Kept(0.0, tokens, population.ms[at].mean(), right))


def _row(what: str, kept: Kept) -> dict[str, Any]:
    return {
        "what": what,
        "tokens": float(kept.tokens),
        "ms": float(kept.ms),
        "% lost": 100 * float(kept.risk),
        "% right": 100 * float(kept.right),
    }


def _summary(kept: list[Kept], population: Outcomes, options: Any) -> dict[str, Any]:
    """Means over the calibrations; the rung of equal accuracy is the smallest as good as they."""
    broken = sum(k.risk > options.risk for k in kept)
    error = math.sqrt(0.05 * 0.95 / len(kept))
    means = (
        statistics.fmean(getattr(k, f) for k in kept) for f in ("risk", "tokens", "ms", "right")
    )
    mean = Kept(*means)
    accuracies = population.right.mean(0)
    equal = next(
        (b for b, a in zip(BUDGETS, accuracies, strict=True) if a >= mean.right), BUDGETS[-1]
    )
    return _row("certified", mean) | {
        "promise broken": f"{broken} of {len(kept)}",
        "allowed": f"{100 * (0.05 + 2 * error):.0f} %",
        "rung of equal accuracy": equal,
        "of its tokens": mean.tokens / equal,
    }


if __name__ == "__main__":
    main()
