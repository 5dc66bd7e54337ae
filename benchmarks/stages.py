"""Processor milliseconds of prefill and decode of several bundles of one model, in turn.

    python benchmarks/stages.py OLD.bundle NEW.bundle

For a change to graphs: export the same model before and after, and run both here. Every round takes
each bundle once, so that drift of the machine hits all alike; rows are random, since what a graph
costs does not depend on them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import common
import numpy as np

from edgetok.bundle.reader import Bundle
from edgetok.runtimes.runtime.runtime import BundleRuntime

STEPS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    opened = [BundleRuntime(Bundle.open(path), threads=options.threads) for path in options.bundles]
    rows = []
    for rung in opened[0].ladder:
        spent = _measure(opened, rung.budget, options.rounds)
        first = statistics.median(spent[0][0])
        for path, (prefill, decode) in zip(options.bundles, spent, strict=True):
            median = statistics.median(prefill)
            rows.append(
                {
                    "bundle": str(path),
                    "visual tokens": rung.budget,
                    "prefill, ms": median,
                    "of the first": median / first,
                    "decode, ms per token": statistics.median(decode),
                }
            )
    title = f"processor time, {options.threads} threads, medians of {options.rounds} rounds"
    common.report(title, rows, options.json)


def _measure(
    opened: list[BundleRuntime], budget: int, rounds: int
) -> list[tuple[list[float], list[float]]]:
    """Of each bundle the milliseconds of prefill, and of a token after it, round by round."""
    found: list[tuple[list[float], list[float]]] = [([], []) for _ in opened]
    generator = np.random.default_rng(0)
    for number in range(rounds + 1):
        for runtime, (prefill, decode) in zip(opened, found, strict=True):
            rung = runtime.ladder.rung(budget)
            width = runtime.embed([1]).shape[1]
            rows = generator.standard_normal((rung.prefill_tokens - 8, width), np.float32) * 0.02
            begun = _spent(lambda r=runtime, g=rung, x=rows: r.prefill(g, x))  # type: ignore[misc]
            steps = _spent(lambda r=runtime: [r.step(5) for _ in range(STEPS)])  # type: ignore[misc]
            if number:  # the first round warms up
                prefill.append(begun)
                decode.append(steps / STEPS)
    return found


def _spent(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start)


if __name__ == "__main__":
    main()
