r"""Seconds that one more rung costs to export, for every method, and the nodes of its graph.

    python benchmarks/export_time.py --methods vispruner divprune --budgets 32 192 \
        --json docs/results/export_time.json

A rung is its compress and its prefill graph, and for methods inside the tower its tower as well;
the prefill graph is the same for all methods. CPU seconds tell what an idle machine would take,
for tracing runs on one thread.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import common
import onnx

from edgetok.errors import UsageError
from edgetok.families import open_model
from edgetok.families.parts import Parts
from edgetok.ladder import build_ladder
from edgetok.methods import METHODS, TOWER_METHODS, Method, find_method

LIMIT_S = 10.0
BUILDING = common.load_building()


def main() -> None:
    options = common.arguments(__doc__, methods=tuple(METHODS | TOWER_METHODS), budgets=(32, 192))
    parts = open_model(options.model)
    grid, n = parts.vision.grid, parts.vision.full_tokens
    _build(parts, METHODS["random"], 1, "compress")  # the first trace imports and warms up
    prefill = {k: _build(parts, METHODS["random"], k, "prefill") for k in options.budgets}
    rows = []
    for name in options.methods:
        try:
            vision = parts.vision
            method = find_method(name).for_tower(vision.prefix_tokens, len(vision.blocks))
        except UsageError as error:
            print(error, file=sys.stderr)
            continue
        for wanted in options.budgets:
            k = min(method.budgets(n, grid), key=lambda b, to=wanted: abs(b - to))
            row = _build(parts, method, k, "compress")
            if method.inside is not None:
                tower = _build(parts, method, k, "tower")
                row = {key: round(row[key] + tower[key], 2) for key in row}
            rung_s = round(row["cpu_s"] + prefill[wanted]["cpu_s"], 2)
            rows.append({"method": name, "tokens": k, **row, "rung_cpu_s": rung_s})
            print(rows[-1], file=sys.stderr, flush=True)
    common.report("export of one more rung", rows, options.json)
    slow = [f"{r['method']} at {r['tokens']}" for r in rows if r["rung_cpu_s"] > LIMIT_S]
    print(f"\nover {LIMIT_S:.0f} CPU seconds: {', '.join(slow) or 'none'}")


def _build(parts: Parts, method: Method, budget: int, stage: str) -> dict[str, Any]:
    builder = BUILDING.make_builder(parts, build_ladder((budget,), 96, 16), method=method)
    wall, cpu = time.perf_counter(), time.process_time()
    (graph,) = BUILDING.build(builder, stage)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    nodes = len(onnx.load_model_from_string(graph.data).graph.node)
    return {"nodes": nodes, "wall_s": round(wall, 2), "cpu_s": round(cpu, 2)}


if __name__ == "__main__":
    main()
