"""Whether a limit on the time to first token is held while another process loads a core.

    python benchmarks/limit.py --json docs/results/limit.json

The table is measured first, as `edgetok bench` does it. Then a process of its own begins to
multiply matrices on one core, and fresh questions are asked in turns of a model that learns its
pace and of one that believes the table (`Limit` without a pace). Prediction: a core shared by two
makes answers up to twice as slow, so the table alone breaks a limit of 1.3 times what its largest
rung takes, in most answers; the learning one breaks it for the first few, then takes smaller rungs
and breaks it in less than one of a hundred.
"""

from __future__ import annotations

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
from edgetok.runtimes.answer import Answer
from edgetok.runtimes.bench import measure
from edgetok.runtimes.generate import Model
from edgetok.runtimes.request import Choice
from edgetok.runtimes.tracing import note_answer

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
    with tempfile.TemporaryDirectory() as folder, _loaded_core():
        trace = Path(folder) / "trace.jsonl"
        asked = [_ask(model, plain, table, sample, limit_ms, trace) for sample in samples]
        same = _repeats(model, table, limit_ms, trace)
    learning, believing = zip(*asked, strict=True)
    result = [
        _summarise("learns its pace", learning, limit_ms) | {"replay is the same": same},
        _summarise("believes the table", believing, limit_ms),
        *({"what": f"table, rung {row.budget}", "p95 ms": row.ttft_ms_p95} for row in rows),
    ]
    title = f"limit of {limit_ms:.0f} ms for {len(samples)} questions, one core loaded by another"
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


def _ask(
    model: Model, plain: Model, table: BenchTable, sample: Sample, limit_ms: float, trace: Path
) -> tuple[Answer, Answer]:
    """Both in turn, neither helped by rows that the other left."""
    model.forget()
    answer = model.generate(sample.image, sample.prompt, max_ttft_ms=limit_ms)
    note_answer(trace, model, answer)
    rung = Limit(table, limit_ms).choose(model.ladder, {}).bucket.budget
    plain.forget()
    return answer, plain.generate(sample.image, sample.prompt, budget=rung)


def _repeats(model: Model, table: BenchTable, limit_ms: float, trace: Path) -> str:
    """How many live decisions an offline replay repeats."""

    def begin() -> tuple[Policy, Pace | None]:
        pace = Pace(table)
        return Choice(max_ttft_ms=limit_ms).policy(model.ladder, pace), pace

    found = repeat(begin, model.ladder, load_trace(trace))
    return f"{sum(r.same for r in found)} of {len(found)}"


def _summarise(what: str, answers: tuple[Answer, ...], limit_ms: float) -> dict[str, Any]:
    times = sorted(answer.timings_ms["ttft"] for answer in answers)
    rungs = Counter(answer.budget for answer in answers)
    return {
        "what": what,
        "% held": 100 * sum(ms <= limit_ms for ms in times) / len(times),
        "median ms": statistics.median(times),
        "p99 ms": times[int(0.99 * (len(times) - 1))],
        "worst ms": times[-1],
        "mean tokens": statistics.fmean(answer.budget for answer in answers),
        "rungs": ", ".join(f"{budget}: {rungs[budget]}" for budget in sorted(rungs)),
    }


if __name__ == "__main__":
    main()
