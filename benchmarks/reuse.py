"""What a later question about an image costs: a chunk behind the cache, steps, a fresh prefill.

    python benchmarks/reuse.py --json docs/results/reuse.json

Each round runs every contestant once, in turn, so that drift of the machine hits all alike; ratios
are medians of the rounds' ratios. A prefill, chunks and steps against one another decide which of
them the runtime takes (`CALL_COST` and `STEP_COST` in runtimes/runtime/cache.py).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import common
import numpy as np

import edgetok
from edgetok.bundle.manifest import count_rows

BUDGETS = (64, 576)


def main() -> None:
    options = common.arguments(__doc__, rounds=9, method="visionzip")
    samples = common.demo_samples("evaluate", 4)
    rows = []
    for weights, kv in (("fp32", "fp32"), ("int8", "int8"), ("int4", "int8")):
        bundle = common.demo_bundle(
            options.model, method=options.method, weights=weights, kv=kv, budgets=BUDGETS
        )
        model = edgetok.load(bundle)
        for budget in BUDGETS:
            row = _time_graphs(model, budget, options.rounds)
            row |= _time_questions(model, samples, budget, options.rounds)
            rows.append({"what": f"{weights}/{kv} at {budget}"} | row)
    common.report("times in ms; medians", rows, options.json)


def _time_graphs(model: Any, budget: int, rounds: int) -> dict[str, float]:
    """The same last rows of a full prompt by each of three ways."""
    runtime, rung = model.runtime, model.ladder.rung(budget)
    chunk = _chunk_rows(model)
    count = rung.prefill_tokens
    keys = [7] * count
    width = runtime.manifest.text.hidden
    embeds = np.random.default_rng(0).standard_normal((count, width), np.float32)

    def prefill() -> None:
        runtime.prefill(rung, embeds, keys)

    def extend() -> None:
        runtime.extend(embeds, count - chunk, keys)

    def steps() -> None:
        runtime.prefill(rung, embeds[: count - chunk], keys[: count - chunk])
        started.append(time.perf_counter())
        for key in keys[-chunk:]:
            runtime.step(key)

    started: list[float] = []
    times: dict[str, list[float]] = {"prefill": [], "chunk": [], "steps": []}
    for _ in range(rounds + 1):
        times["prefill"].append(_clock(prefill))
        times["chunk"].append(_clock(extend))
        _clock(steps)
        times["steps"].append(1e3 * (time.perf_counter() - started[-1]))
    found = {name: values[1:] for name, values in times.items()}  # the first round warms up
    per_row = [
        (c / chunk) / (p / count) for c, p in zip(found["chunk"], found["prefill"], strict=True)
    ]
    medians = {name: statistics.median(values) for name, values in found.items()}
    return {
        f"prefill of {count}": medians["prefill"],
        "chunk": medians["chunk"],
        f"{chunk} steps": medians["steps"],
        "row of chunk / of prefill": statistics.median(per_row),
    }


def _time_questions(model: Any, samples: Any, budget: int, rounds: int) -> dict[str, float]:
    """Time to the first token of a second question about an encoded image, with and without."""
    image = model.encode(samples[0].image)
    first, second = samples[0].prompt, samples[1].prompt
    fresh, reused = [], []
    for _ in range(rounds + 1):
        model.forget()
        image.tokens.clear()
        answer = model.generate(image, second, budget=budget, max_new_tokens=1)
        fresh.append(answer.timings_ms["ttft"])
        model.generate(image, first, budget=budget)
        answer = model.generate(image, second, budget=budget, max_new_tokens=1)
        reused.append(answer.timings_ms["ttft"])
    pairs = list(zip(fresh[1:], reused[1:], strict=True))
    return {
        "first question": statistics.median(a for a, _ in pairs),
        "second question": statistics.median(b for _, b in pairs),
        "faster": statistics.median(a / b for a, b in pairs),
    }


def _chunk_rows(model: Any) -> int:
    return min(count_rows(s) for s in model.manifest.stages if s.stage == "extend")


def _clock(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - started)


if __name__ == "__main__":
    main()
