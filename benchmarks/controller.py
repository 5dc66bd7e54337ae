"""Whether certified controllers keep their promise and what they save, on fresh questions.

    python benchmarks/controller.py --json docs/results/controller.json

Every rung answers fresh questions, one per picture, of scenes that no method, policy or threshold
was chosen on. They are a population whose risks are known exactly. Calibrations are drawn from it
with replacement, so each is independent of the others, and each certifies a controller of its own;
the risk of that controller over the whole population says whether the promise held.

Two rungs are what it is compared with: the smallest one that is as accurate, which nobody knows
beforehand, and the smallest one that the same samples certify, all of them used to test rungs from
the largest on. The time of a rung is that from the encoded image to the end of the answer.
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
from edgetok.control.certificate import binomial_p, count_certified
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
    defaults = {"questions": 3000, "draws": 100, "samples": 1000, "risk": 0.02}
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
    rows.append(_one_rung(population, options))
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
    drawn = _draw(population, options, seed)
    # Drawn twice is drawn twice: two questions, not two questions about one picture.
    own = [
        msgspec.structs.replace(records[i], sample=f"{n}", image=f"{n}")
        for n, i in enumerate(drawn.tolist())
    ]
    found = certify(own, BUDGETS, Aim(options.risk, seed=seed), DIGEST, "ort")
    kept = _follow(found.controller, population, ladder)
    print(f"{seed}: {found.path}: {kept}", file=sys.stderr, flush=True)
    return kept


def _one_rung(population: Outcomes, options: Any) -> dict[str, Any]:
    """Of the same draws, the smallest rung that all samples certify, tested from the largest on."""
    kept = []
    for seed in range(options.draws):
        drawn = _draw(population, options, seed)
        wrong = population.lost[drawn].sum(0)[::-1].tolist()
        p_values = [binomial_p(count, options.samples, options.risk) for count in wrong]
        rung = len(BUDGETS) - max(1, count_certified(p_values, 0.05))
        means = (a.mean(0)[rung] for a in (population.lost, population.ms, population.right))
        lost, ms, right = (float(mean) for mean in means)
        kept.append(Kept(lost, BUDGETS[rung], ms, right))
    return _row("one rung, certified", _mean(kept)) | _count_broken(kept, options)


def _draw(population: Outcomes, options: Any, seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, len(population), options.samples)


def _mean(kept: list[Kept]) -> Kept:
    fields = ("risk", "tokens", "ms", "right")
    return Kept(*(statistics.fmean(getattr(k, field) for k in kept) for field in fields))


def _count_broken(kept: list[Kept], options: Any) -> dict[str, Any]:
    """How many calibrations broke their promise, and up to how many may by chance."""
    broken = sum(k.risk > options.risk for k in kept)
    error = math.sqrt(0.05 * 0.95 / len(kept))
    return {
        "promise broken": f"{broken} of {len(kept)}",
        "allowed": f"{100 * (0.05 + 2 * error):.0f} %",
    }


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
    mean = _mean(kept)
    accuracies = population.right.mean(0)
    equal = next((i for i, a in enumerate(accuracies) if a >= mean.right), len(BUDGETS) - 1)
    return (
        _row("controller, certified", mean)
        | _count_broken(kept, options)
        | {
            "rung of equal accuracy": BUDGETS[equal],
            "of its tokens": mean.tokens / BUDGETS[equal],
            "of its ms": mean.ms / float(population.ms[:, equal].mean()),
        }
    )


if __name__ == "__main__":
    main()
