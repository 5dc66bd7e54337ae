r"""Engines of a whole ladder and of one rung: bytes, seconds and memory that building them takes.

    pip install "edgetok[rtx]"
    python benchmarks/engines_ladder.py --json docs/results/engines_ladder.json

Each engine is built in a process of its own, whose peak is compared with what `edgetok build`
predicts. Engines are for GPUs that need not be there, and nothing is run. `--bundles` takes
bundles that were exported before.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from edgetok.bundle.reader import Bundle
from edgetok.engines.build import build_engine
from edgetok.engines.plan import EngineJob, plan_engines
from edgetok.engines.toolkit import find_toolkit, parse_target

_ONE = "--one"  # this script as a process that builds a single engine
BUDGETS = (64, 128, 192, 576)


def main() -> None:
    import common  # brings PyTorch, which would count in what a build takes

    options = common.arguments(
        __doc__,
        weights=("fp32", "int8", "int4"),
        precision="fp16",
        target="rtx:sm80,sm86",
        bundles=("",),
    )
    rows = []
    given = [Path(bundle) for bundle in options.bundles if bundle]
    for bundle in given or [_export(common, options.model, each) for each in options.weights]:
        weights = Bundle.open(bundle).manifest.precision.weights
        four = [row | {"weights": weights} for row in _build_all(bundle, options, None)]
        one = _build_all(bundle, options, max(BUDGETS))
        total = {"engine": "all", "rungs": "four", "weights": weights}
        ratio = sum(row["MiB"] for row in four) / sum(row["MiB"] for row in one)
        total |= {"MiB": sum(row["MiB"] for row in four), "of one rung's": ratio}
        rows += [*four, total | {"seconds": sum(row["seconds"] for row in four)}]
    title = f"{find_toolkit('rtx').title}, {options.target}, products in {options.precision}"
    common.report(title, rows, options.json)


def _export(common: Any, model: Path, weights: str) -> Path:
    return common.demo_bundle(model, weights=weights, flavour="portable", budgets=BUDGETS)


def _build_all(bundle: Path, options: Any, budget: int | None) -> list[dict[str, Any]]:
    jobs = _plan(bundle, options.precision, budget)
    rows = []
    for name in (job.name for job in jobs):
        given = [str(bundle), options.precision, str(budget or ""), name, options.target]
        command = [sys.executable, __file__, _ONE, *given]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        rows.append(json.loads(done.stdout))
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def _plan(bundle: Path, precision: str, budget: int | None) -> list[EngineJob]:
    budgets = None if budget is None else [budget]
    opened = Bundle.open(bundle)
    return plan_engines(opened, flavour="portable", precision=precision, budgets=budgets)


def _peak_mib() -> int:
    """The most memory that this process has held; what the parent held does not count."""
    found = re.search(r"VmHWM:\s+([0-9]+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) >> 10 if found else 0


def _build_one(bundle: str, precision: str, budget: str, name: str, target: str) -> dict[str, Any]:
    jobs = _plan(Path(bundle), precision, int(budget) if budget else None)
    job = next(job for job in jobs if job.name == name)
    started = time.monotonic()
    built = build_engine(job, Path(bundle), find_toolkit("rtx"), parse_target(target))
    return {
        "engine": name,
        "rungs": " ".join(str(stage.budget or "all") for stage in job.stages),
        "weights MiB": job.weights_bytes / (1 << 20),
        "MiB": len(built.data) / (1 << 20),
        "seconds": time.monotonic() - started,
        "peak MiB": _peak_mib(),
        "predicted MiB": job.peak_bytes >> 20,
    }


if __name__ == "__main__":
    if sys.argv[1:2] == [_ONE]:
        print(json.dumps(_build_one(*sys.argv[2:])))
    else:
        main()
