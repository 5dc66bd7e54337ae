r"""Accuracy of every method at every budget on the demo model's evaluation questions.

    python benchmarks/accuracy.py --questions 1000 --methods fastervlm visionzip random pool \
        --seeds 0 --json docs/results/accuracy.json

All rungs see the same questions; float32, so that only the choice of tokens differs. Beside FILE,
`FILE-oracle.json` says what a controller could reach that always knew the smallest right rung.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import common

import edgetok
from edgetok.calibration.evaluate import Evaluation, RungScore, evaluate
from edgetok.methods import METHODS


def main() -> None:
    options = common.arguments(
        __doc__, questions=500, methods=tuple(METHODS), seeds=(0, 1, 2), threads=0
    )
    samples = common.demo_samples("evaluate", options.questions)
    rows: list[dict[str, Any]] = []
    oracles: list[dict[str, Any]] = []
    for method in options.methods:
        for seed in options.seeds if METHODS[method].reseed else (0,):
            started = time.monotonic()
            bundle = common.demo_bundle(
                options.model, method=method, seed=seed, budgets=common.BUDGETS
            )
            model = edgetok.load(bundle, threads=options.threads or None)
            scores = evaluate(model, samples, common.BUDGETS, lambda *_: None)
            rows += [_row(method, seed, score) for score in scores.rungs]
            oracles.append(_oracle_row(method, seed, scores))
            took = time.monotonic() - started
            print(f"{method} {seed}: {took:.0f} s", file=sys.stderr, flush=True)
    common.report(f"accuracy on {len(samples)} questions, percent", rows, options.json)
    beside = options.json and options.json.with_name(f"{options.json.stem}-oracle.json")
    title = (
        f"the smallest of the rungs {common.BUDGETS} that answers right, {len(samples)} questions"
    )
    common.report(title, oracles, beside)


def _row(method: str, seed: int, score: RungScore) -> dict[str, Any]:
    kinds = {kind: round(100 * s.accuracy, 1) for kind, s in sorted(score.kinds.items())}
    whole = score.all
    return {
        "method": method,
        "seed": seed,
        "tokens": score.budget,
        "all": round(100 * whole.accuracy, 1),
        "low95": round(100 * whole.low, 1),
        "high95": round(100 * whole.high, 1),
        **kinds,
    }


def _oracle_row(method: str, seed: int, scores: Evaluation) -> dict[str, Any]:
    """Where no rung is right, the oracle spends the smallest one."""
    full, oracle = scores.rungs[-1], scores.oracle
    return {
        "method": method,
        "seed": seed,
        "oracle accuracy %": round(100 * oracle.score.accuracy, 1),
        "oracle mean tokens": round(oracle.mean_tokens, 1),
        "share of full": round(oracle.mean_tokens / full.budget, 3),
        "full accuracy %": round(100 * full.all.accuracy, 1),
    }


if __name__ == "__main__":
    main()
