r"""The C library beside Python: time to first token, decode and resident memory, each in a process.

    make cpp
    python benchmarks/cpp.py --repeats 20 --json docs/results/cpp.json

Both run the same graphs in the same ONNX Runtime, one thread per core, on one picture and prompt;
every answer is computed from its first row on. Memory is the proportional size of the process,
mapped weights included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TOOL = ROOT / "build" / "cpp" / "shared" / "edgetok-cpp"
PRECISIONS = (("fp32", "fp32"), ("int8", "int8"), ("int4", "int8"))
BUDGETS = "16,64,128,full"
NEW_TOKENS = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "examples/demo_vlm/checkpoint")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _measure_python(*options.child[:3], int(options.child[3]), options.child[4:])
        return
    rows = [row for pair in PRECISIONS for row in _compare(options, *pair)]
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _compare(options: argparse.Namespace, weights: str, kv: str) -> list[dict[str, Any]]:
    """A row per engine and set of loaded rungs: all of them, and the smallest alone."""
    import common  # brings torch, which must not count as memory of the child

    from edgetok.runtimes.load import load

    bundle = common.demo_bundle(
        options.model, weights=weights, kv=kv, budgets=BUDGETS, new_tokens=NEW_TOKENS
    )
    sample = common.demo_samples("calibrate", 64)[0]
    model = load(bundle)
    prompt = model.processor.encode(sample.prompt)
    sides = [" ".join(map(str, side)) for side in (prompt.before, prompt.after)]
    repeats, rows = str(options.repeats), []
    for budgets in ([], [str(model.ladder.smallest.budget)]):
        cpp = [TOOL, "measure", bundle, sample.image, *sides, repeats, *budgets]
        child = ["--child", bundle, sample.image, sample.prompt, repeats, *budgets]
        python = [sys.executable, Path(__file__), *child]
        for engine, command in (("C", cpp), ("Python", python)):
            row = {"engine": engine, "weights": weights, "kv": kv, "rungs": _measure(command)}
            print(json.dumps(row), flush=True)
            rows.append(row)
    return rows


def _measure(command: list[Any]) -> list[dict[str, Any]]:
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in done.stdout.decode().splitlines()]


def _measure_python(bundle: str, image: str, prompt: str, repeats: int, budgets: list[str]) -> None:
    import numpy as np

    from edgetok.runtimes import machine
    from edgetok.runtimes.load import load

    model = load(bundle, budgets=[int(b) for b in budgets] or None)
    data = Path(image).read_bytes()
    for bucket in model.ladder:
        ttft, decode = [], []
        for _ in range(repeats):
            model.forget()
            answer = model.generate(data, prompt, budget=bucket.budget)
            ttft.append(answer.timings_ms["ttft"])
            decode.append(answer.timings_ms["decode_per_token"])
        row = {
            "budget": bucket.budget,
            "ttft_ms": round(float(np.median(ttft)), 3),
            "decode_ms": round(float(np.median(decode)), 3),
            "resident_bytes": machine.resident_bytes(),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
