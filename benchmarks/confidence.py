"""How long it takes to say how sure a model was of a token, beside NumPy's exponential and sum.

    python benchmarks/confidence.py

The runtime's are the same to the last bit in Python and in the C library; NumPy's are not.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import common
import numpy as np

from edgetok.runtimes.text.sampling import log_probability


def main() -> None:
    options = common.arguments(__doc__, rounds=50, vocabulary=152_000)
    logits = np.random.default_rng(0).normal(scale=4, size=options.vocabulary).astype(np.float32)
    token = int(logits.argmax())
    ways: dict[str, Callable[[], float]] = {
        "edgetok": lambda: log_probability(logits, token),
        "NumPy": lambda: -float(np.log(np.exp(logits - logits.max()).sum())),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append(1e3 * (time.perf_counter() - start))
    rows = [{"way": name, "ms per token": statistics.median(ms)} for name, ms in times.items()]
    common.report(f"{options.vocabulary} logits", rows, options.json)


if __name__ == "__main__":
    main()
