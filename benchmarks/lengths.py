"""What a short prompt and a long second question cost with graphs of several lengths, and with one.

    python benchmarks/lengths.py --json docs/results/lengths.json

Processor time of the runtime's calls on one thread. The same bundle is loaded twice, and of one
copy all prefill graphs but the longest of a rung and all chunks but the shortest are taken away.
Each round runs every contestant once, in turn; ratios are medians of the rounds' ratios.

Predicted before any of it was written, from rows alone with a call's own cost as a fifth of a
prefill of 112: 0.5 at K=16 and 0.65 at K=64 in float32, and less gained in quantized graphs, whose
calls dequantize all weights; 45 rows in one chunk 0.65 of what three take.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import common
import numpy as np

import edgetok
from edgetok.runtimes.runtime.protocol import VisualTokens
from edgetok.runtimes.runtime.reuse import PromptRows, fill

BUDGETS = (16, 64)
FIRST, SECOND = 13, 45  # text tokens of a question
BEFORE = 5  # of them before the image


def main() -> None:
    options = common.arguments(__doc__, rounds=31, method="visionzip")
    rows = []
    for weights in ("fp32", "int8", "int4"):
        bundle = common.demo_bundle(
            options.model, method=options.method, weights=weights, budgets=BUDGETS
        )
        several, single = (edgetok.load(bundle, threads=1).runtime for _ in range(2))
        _leave_one_length(single)
        for budget in BUDGETS:
            row = _time(several, single, budget, options.rounds)
            rows.append({"weights": weights, "K": budget} | row)
    common.report("processor ms; medians", rows, options.json)


def _leave_one_length(runtime: Any) -> None:
    graphs = runtime._graphs
    for rung in runtime.ladder:
        own = graphs._graphs["prefill", rung.budget]
        for size in sorted(own)[:-1]:
            del own[size]
    for size in sorted(graphs.extend)[1:]:
        del graphs.extend[size]


def _time(several: Any, single: Any, budget: int, rounds: int) -> dict[str, float]:
    rung, width = several.ladder.rung(budget), several.manifest.text.hidden
    noise = np.random.default_rng(0).standard_normal
    visual = VisualTokens(
        noise((budget, width), np.float32), np.arange(budget), np.ones(budget, np.float32)
    )
    before = tuple(range(10, 10 + BEFORE))

    def ask(runtime: Any, after: Sequence[int]) -> Callable[[], int]:
        rows = PromptRows(before, visual, tuple(after), len(after))
        embeds = noise((len(rows), width), np.float32)
        return lambda: fill(runtime, rung, rows, embeds)[1]

    short = range(20, 20 + FIRST - BEFORE)
    long = range(100, 100 + SECOND)
    first = [ask(runtime, short) for runtime in (several, single)]
    later = [ask(runtime, long) for runtime in (several, single)]
    times: dict[str, list[float]] = {}
    for _ in range(rounds + 1):
        for name, runtime, opening, question in zip(
            ("several", "one"), (several, single), first, later, strict=True
        ):
            runtime.forget()
            times.setdefault(f"13 tokens, {name}", []).append(_clock(opening))
            assert question() == BEFORE + budget  # noqa: S101  # warms up, and holds the image
            opening()
            times.setdefault(f"45 behind, {name}", []).append(_clock(question))
            runtime.forget()
            times.setdefault(f"45 anew, {name}", []).append(_clock(question))
    found = {name: values[1:] for name, values in times.items()}  # the first round warms up
    medians = {name: statistics.median(values) for name, values in found.items()}

    def ratio(of: str, to: str) -> float:
        return statistics.median(a / b for a, b in zip(found[of], found[to], strict=True))

    return medians | {
        "13 tokens, ratio": ratio("13 tokens, several", "13 tokens, one"),
        "behind, several / one": ratio("45 behind, several", "45 behind, one"),
        "behind / anew, several": ratio("45 behind, several", "45 anew, several"),
        "behind, several / anew, one": ratio("45 behind, several", "45 anew, one"),
    }


def _clock(run: Callable[[], object]) -> float:
    started = time.process_time()
    run()
    return 1e3 * (time.process_time() - started)


if __name__ == "__main__":
    main()
