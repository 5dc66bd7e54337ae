r"""The C library beside Python: time to first token, decode and resident memory, each in a process.

    make cpp
    python benchmarks/cpp.py --json docs/results/cpp.json
    python benchmarks/cpp.py --bundle out/benchmarks/shapes/NAME.bundle --repeats 1 --rounds 3

All run the same graphs in the same ONNX Runtime, one thread per core, on one picture and prompt;
every answer is computed from its first row on. Each round starts every contestant once, in turn;
ratios are medians of the rounds' ratios. Memory is the proportional size of the process, mapped
weights included, right after a rung's answers: with all rungs loaded, and with that one alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TOOL = ROOT / "build" / "cpp" / "shared" / "edgetok-cpp"
PRECISIONS = ("fp32/fp32", "int8/int8", "int4/int8")
BUDGETS = "16,64,128,full"
NEW_TOKENS = 32
ENGINES = ("C", "C, all weights packed", "Python")

Rungs = dict[int, dict[str, Any]]  # what a process printed, by budget


def main() -> None:
    if sys.argv[1:2] == ["--child"]:  # before torch is imported, which would count as its memory
        _measure_python(*sys.argv[2:5], int(sys.argv[5]), sys.argv[6:])
        return
    import common

    options = common.arguments(
        __doc__, repeats=9, rounds=5, bundle="", precisions=PRECISIONS, image=""
    )
    rows = [row for name, bundle in _bundles(options) for row in _compare(options, name, bundle)]
    common.report("time to first token, ms per token and memory, in one run", rows, options.json)


def _bundles(options: argparse.Namespace) -> list[tuple[str, Path]]:
    import common

    if options.bundle:
        return [(Path(options.bundle).stem, Path(options.bundle))]
    out = []
    for name in options.precisions:
        weights, kv = name.split("/")
        made = common.demo_bundle(
            options.model, weights=weights, kv=kv, budgets=BUDGETS, new_tokens=NEW_TOKENS
        )
        out.append((name, made))
    return out


def _compare(options: argparse.Namespace, name: str, bundle: Path) -> list[dict[str, Any]]:
    """A row per engine and rung."""
    import common

    from edgetok.runtimes.load import load

    sample = common.demo_samples("calibrate", 64)[0]
    image = options.image or sample.image
    model = load(bundle)
    prompt, budgets = model.processor.encode(sample.prompt), model.ladder.budgets
    del model
    sides = [" ".join(map(str, side)) for side in (prompt.before, prompt.after)]

    def start(engine: str, *alone: int) -> Rungs:
        repeats = options.repeats if not alone else min(3, options.repeats)
        words = [*map(str, (repeats, *alone))]
        packed = ["--packed"] if engine == ENGINES[1] else []
        if engine == "Python":
            child = [sys.executable, __file__, "--child", bundle, image, sample.prompt]
            return _start([*child, *words])
        return _start([TOOL, "measure", *packed, bundle, image, *sides, *words])

    rounds = [{engine: start(engine) for engine in ENGINES} for _ in range(options.rounds)]
    ends = (budgets[0], budgets[-1])  # the smallest and the largest rung
    alone = {engine: {b: start(engine, b)[b] for b in ends} for engine in ENGINES}
    return [
        _row(name, engine, budget, rounds, alone[engine])
        for budget in budgets
        for engine in ENGINES
    ]


def _row(
    name: str, engine: str, budget: int, rounds: Sequence[dict[str, Rungs]], alone: Rungs
) -> dict[str, Any]:
    mine = [made[engine][budget] for made in rounds]
    python = [made["Python"][budget] for made in rounds]

    def median(key: str) -> float:
        return statistics.median(row[key] for row in mine)

    def faster(key: str) -> float:
        pairs = zip(python, mine, strict=True)
        return statistics.median(p[key] / m[key] for p, m in pairs if m[key])

    row = {
        "bundle": name,
        "tokens": budget,
        "engine": engine,
        "first token, ms": median("ttft_ms"),
        "than Python": faster("ttft_ms"),
        "ms per token": median("decode_ms"),
        "decode, than Python": faster("decode_ms"),
        "MiB": median("resident_bytes") / 2**20,
    }
    if budget in alone:
        row["of one rung alone"] = median("resident_bytes") / alone[budget]["resident_bytes"]
    return row


def _start(command: list[Any]) -> Rungs:
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, check=True)
    rows = [json.loads(line) for line in done.stdout.decode().splitlines()]
    return {row["budget"]: row for row in rows}


def _measure_python(bundle: str, image: str, prompt: str, repeats: int, budgets: list[str]) -> None:
    import numpy as np

    from edgetok.runtimes.device import machine
    from edgetok.runtimes.load import load

    model = load(bundle, budgets=[int(b) for b in budgets] or None)
    data = Path(image).read_bytes()
    for rung in model.ladder:
        ttft, decode = [], []
        for _ in range(repeats):
            model.forget()
            answer = model.generate(data, prompt, budget=rung.budget)
            ttft.append(answer.timings_ms["ttft"])
            decode.append(answer.timings_ms["decode_per_token"])
        row = {
            "budget": rung.budget,
            "ttft_ms": round(float(np.median(ttft)), 3),
            "decode_ms": round(float(np.median(decode)), 3),
            "resident_bytes": machine.resident_bytes(),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
