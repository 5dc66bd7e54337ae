"""What a rung costs: bytes in the bundle and private memory once loaded.

    python benchmarks/memory.py --json docs/results/memory.json

Prediction: graphs are about 35 KB per rung, weights are mapped or packed once, so four rungs stay
within 1.15 times the private memory of one. Each measurement is a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import common

CHILD = """
import json, sys, numpy, edgetok
from edgetok.runtimes.device import machine
bundle, budgets = sys.argv[1], [int(b) for b in sys.argv[2].split(",")]
before = machine.private_bytes()
model = edgetok.load(bundle, budgets=budgets)
loaded = machine.private_bytes()
image = numpy.zeros((192, 192, 3), numpy.uint8)
for budget in budgets:
    model.generate(image, "How many shapes are there?", budget=budget, max_new_tokens=8)
print(json.dumps([loaded, machine.private_bytes(), before]))
"""


def main() -> None:
    options = common.arguments(__doc__, repeats=3)
    rows = []
    for weights, kv in (("fp32", "fp32"), ("int8", "int8"), ("int4", "int8")):
        budgets = (64, 128, 192, 576)
        four = common.demo_bundle(options.model, weights=weights, kv=kv, budgets=budgets)
        one = common.demo_bundle(options.model, weights=weights, kv=kv, budgets=(576,))
        sizes = [sum(f.stat().st_size for f in b.rglob("*") if f.is_file()) for b in (one, four)]
        small = min(_private(four, "576", options.repeats))
        large = min(_private(four, "64,128,192,576", options.repeats))
        rows.append(
            {
                "weights": weights,
                "kv": kv,
                "bundle of one rung, MB": sizes[0] / 1e6,
                "per added rung, %": 100 * (sizes[1] - sizes[0]) / 3 / sizes[0],
                "one rung loaded, MiB": small[0] / 2**20,
                "four rungs loaded, MiB": large[0] / 2**20,
                "ratio": large[0] / small[0],
                "ratio without the interpreter": (large[0] - large[2]) / (small[0] - small[2]),
                "ratio after answers": large[1] / small[1],
            }
        )
    common.report("the cost of rungs", rows, options.json)


def _private(bundle: Path, budgets: str, repeats: int) -> list[Any]:
    command = [sys.executable, "-c", CHILD, str(bundle), budgets]
    return [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(repeats)
    ]


if __name__ == "__main__":
    main()
