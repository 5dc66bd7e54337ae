"""Prefill and decode at every rung, beside the full rung and beside what the machine allows.

    python benchmarks/rungs.py --json docs/results/rungs.json

Each rung gets a prompt that fills it, then steps behind it. Every round runs every rung once, in
turn, so that drift of the machine hits all alike; ratios are medians of the rounds' ratios to the
full rung of the same precision. A prefill is bound by arithmetic: matrix products and attention of
its float32 graph over the rate of a large product. A step is bound by memory: the weights it reads
and the rows of the cache over the rate at which a plain sum reads as many bytes, from the
processor's cache where they fit into it.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
import onnx
import onnx_ir as ir
from bounds import decode_bytes, rate_gflop_s, read_gb_s
from tower import flops

import edgetok
from edgetok.bundle.buffers import cache_bytes
from edgetok.bundle.reader import Bundle
from edgetok.export.lowering.fusion import infer_shapes
from edgetok.ladder import Rung

PRECISIONS = (("fp32", "fp32"), ("int8", "int8"), ("int4", "int8"))
STEPS = 16

Rung = tuple[Path, Rung]


def main() -> None:
    options = common.arguments(__doc__, rounds=9, method="visionzip", threads=2)
    rate = rate_gflop_s(options.threads)
    bundles = {
        f"{weights}/{kv}": common.demo_bundle(
            options.model, method=options.method, weights=weights, kv=kv, budgets=common.BUDGETS
        )
        for weights, kv in PRECISIONS
    }
    work = count_flops(bundles["fp32/fp32"])
    rows = []
    for name, bundle in bundles.items():
        model = edgetok.load(bundle, threads=options.threads)
        weight_bytes = decode_bytes(bundle)
        reads = read_gb_s(weight_bytes, options.threads)
        times = measure(model, options.rounds)
        for rung in model.ladder:
            held = cache_bytes(model.manifest) * rung.prefill_tokens // model.manifest.kv.slots[0]
            limits = {
                "prefill bound, ms": work[rung.budget] / rate / 1e6,
                "decode bound, ms": (weight_bytes + held) / reads / 1e6,
            }
            rows.append({"what": f"{name} at {rung.budget}"} | row(times, rung, limits))
    title = (
        f"prompts that fill their rung, {options.threads} threads; "
        f"a large product does {rate:.0f} GFLOP/s"
    )
    common.report(title, rows, options.json)


def count_flops(path: Path) -> dict[int, float]:
    """Arithmetic of each rung's prefill."""
    bundle = Bundle.open(path)
    counts = {}
    for rung in bundle.ladder:
        model = ir.from_proto(
            onnx.load_from_string(bundle.graph(bundle.stage("prefill", rung.budget)))
        )
        infer_shapes(model)
        counts[rung.budget] = flops(model)
    return counts


def measure(model: Any, rounds: int) -> dict[int, list[tuple[float, float]]]:
    """Milliseconds of a prefill and of a step behind it; the first round warms up."""
    times: dict[int, list[tuple[float, float]]] = {b.budget: [] for b in model.ladder}
    for _ in range(rounds + 1):
        for rung in model.ladder:
            times[rung.budget].append(run(model, rung))
    return {budget: values[1:] for budget, values in times.items()}


def run(model: Any, rung: Rung) -> tuple[float, float]:
    count = rung.prefill_tokens
    rows = np.random.default_rng(0).standard_normal((count, model.manifest.text.hidden), np.float32)
    started = time.perf_counter()
    model.runtime.prefill(rung, rows, [7] * count)
    filled = time.perf_counter()
    for _ in range(STEPS):
        model.runtime.step(7)
    done = time.perf_counter()
    return 1e3 * (filled - started), 1e3 * (done - filled) / STEPS


def row(
    times: dict[int, list[tuple[float, float]]], rung: Rung, limits: dict[str, float]
) -> dict[str, Any]:
    own, full = times[rung.budget], times[max(times)]
    prefill_ms, step_ms = (statistics.median(values) for values in zip(*own, strict=True))
    ratios = [[f[i] / o[i] for o, f in zip(own, full, strict=True)] for i in (0, 1)]
    return {
        "prefill rows": rung.prefill_tokens,
        "prefill, ms": prefill_ms,
        "prefill faster than full": statistics.median(ratios[0]),
        "prefill bound, ms": limits["prefill bound, ms"],
        "bound / prefill": limits["prefill bound, ms"] / prefill_ms,
        "decode, ms": step_ms,
        "decode faster than full": statistics.median(ratios[1]),
        "decode bound, ms": limits["decode bound, ms"],
        "bound / decode": limits["decode bound, ms"] / step_ms,
    }


if __name__ == "__main__":
    main()
