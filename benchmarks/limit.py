"""Whether a limit on the time to first token is held while another process loads a core.

    python benchmarks/limit.py --json docs/results/limit.json

The table is measured first, as `edgetok bench` does it. Then a process of its own begins to
multiply matrices on one core, and fresh questions are asked in turns of a model that learns its
pace and of one that believes the table (`Limit` without a pace). Prediction: a core shared by two
makes answers up to twice as slow, so the table alone breaks a limit of 1.3 times what its largest
rung takes, in most answers; the learning one breaks it for the first few, then takes smaller rungs
and breaks it in less than one of a hundred. Every fifth question is also asked of the smallest
rung, which says how often the limit could have been held at all: what else runs on the machine
is in the title as its load, before and behind.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import common

import edgetok
from edgetok.calibration.samples import Sample
from edgetok.control import BenchTable, Limit, Pace, Policy
from edgetok.control.trace import load_trace, repeat
from edgetok.runtimes.answers.answer import Answer
from edgetok.runtimes.answers.model import Model
from edgetok.runtimes.answers.request import Choice
from edgetok.runtimes.answers.tracing import note_answer
from edgetok.runtimes.bench import measure

BUDGETS = (16, 32, 64, 128, 576)
FIRST_SCENE = 600_000
_LOAD = "import numpy as n\na = n.ones((256, 256), n.float32)\nwhile True: a @ a / 256"


def main() -> None:
    options = common.arguments(__doc__, method="vtc-cls", threads=1, questions=500, times=1.3)
    bundle = common.demo_bundle(options.model, method=options.method, budgets=BUDGETS)
    samples = common.demo_samples("evaluate", options.questions, 1, FIRST_SCENE)
    plain = edgetok.load(bundle, threads=options.threads)
    rows = measure(plain, repeats=40, image=samples[0].image, prompt=samples[0].prompt)
    table = BenchTable(plain.digest, plain.device, tuple(rows))
    limit_ms = options.times * rows[-1].ttft_ms_p95
    model = Model(plain.runtime, plain.processor, plain.digest, tables=lambda *_: table)
    learning, believing, smallest = list[Answer](), list[Answer](), list[Answer]()
    rung = Limit(table, limit_ms).choose(model.ladder, {}).rung.budget
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, _loaded_core():
        trace = Path(folder) / "trace.jsonl"
        for number, sample in enumerate(samples):
            model.forget()
            answer = model.generate(sample.image, sample.prompt, max_ttft_ms=limit_ms)
            note_answer(trace, model, answer)
            learning.append(answer)
            if number % 5 == 0:
                believing.append(_ask(plain, sample, rung))
                smallest.append(_ask(plain, sample, BUDGETS[0]))
        same = _repeats(model, table, limit_ms, trace)
    result = [
        _summarise("learns its pace", learning, limit_ms) | {"replay is the same": same},
        _summarise("believes the table", believing, limit_ms),
        _summarise("smallest rung", smallest, limit_ms),
        *({"what": f"table, rung {row.budget}", "p95 ms": row.ttft_ms_p95} for row in rows),
    ]
    loads = f"load average {before:.1f} before and {os.getloadavg()[0]:.1f} behind"
    title = (
        f"limit of {limit_ms:.0f} ms for {len(samples)} questions while another process loads a "
        f"core; {loads}"
    )
    common.report(title, result, options.json)


@contextmanager
def _loaded_core() -> Iterator[None]:
    """Another process that never rests, on one core."""
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    load = subprocess.Popen([sys.executable, "-c", _LOAD], env=threads)
    try:
        time.sleep(1)
        yield
    finally:
        load.kill()
        load.wait()


def _ask(model: Model, sample: Sample, budget: int) -> Answer:
    model.forget()  # no answer is helped by rows that another one left
    return model.generate(sample.image, sample.prompt, budget=budget)


def _repeats(model: Model, table: BenchTable, limit_ms: float, trace: Path) -> str:
    """How many live decisions an offline replay repeats."""

    def begin() -> tuple[Policy, Pace | None]:
        pace = Pace(table)
        return Choice(max_ttft_ms=limit_ms).policy(model.ladder, pace), pace

    found = repeat(begin, model.ladder, load_trace(trace))
    return f"{sum(r.same for r in found)} of {len(found)}"


def _summarise(what: str, answers: list[Answer], limit_ms: float) -> dict[str, Any]:
    times = sorted(answer.timings_ms["ttft"] for answer in answers)
    rungs = Counter(answer.budget for answer in answers)
    return {
        "what": what,
        "questions": len(answers),
        "% held": 100 * sum(ms <= limit_ms for ms in times) / len(times),
        "median ms": statistics.median(times),
        "p99 ms": times[int(0.99 * (len(times) - 1))],
        "worst ms": times[-1],
        "mean tokens": statistics.fmean(answer.budget for answer in answers),
        "rungs": ", ".join(f"{budget}: {rungs[budget]}" for budget in sorted(rungs)),
    }


if __name__ == "__main__":
    main()
