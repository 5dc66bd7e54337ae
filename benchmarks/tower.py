"""Time and arithmetic of towers that reduce their rows, beside the plain tower.

    python benchmarks/tower.py --json docs/results/tower.json

All towers are float32 graphs of one model in one process, one thread each by default. Every round
runs each tower once, in turn, so that drift of the machine hits all alike; the speed-up is the
median of the rounds' ratios to the plain tower of the same round. FLOPs are those of matrix
products, attention and convolution, 2 per multiplication, from the shapes in the graphs; what a
method spends on choosing is among them where it multiplies matrices. Rows of methods that were not
measured stay in the file. `--busy 1` has the title say that the machine had other work, which makes
milliseconds longer, and ratios hardly different.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import common
import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from edgetok import names
from edgetok.export.attention import StageModule
from edgetok.export.cases import make_cases
from edgetok.export.lowering import ort as ort_lowering
from edgetok.export.lowering.fusion import fuse
from edgetok.export.lowering.trace import quiet, trace
from edgetok.export.stages import tower as stages
from edgetok.export.stages import tower_reducing as reducing
from edgetok.families import open_model
from edgetok.families.parts import VisionParts
from edgetok.methods import TOWER_METHODS

PLAIN = "plain"


def main() -> None:
    options = common.arguments(
        __doc__,
        rounds=15,
        threads=1,
        budgets=(64, 128, 192),
        methods=tuple(TOWER_METHODS),
        busy=0,
    )
    parts = open_model(options.model)
    vision = parts.vision
    sample = common.demo_samples("evaluate", 4)[0]
    pixels = make_cases(parts, [sample])[0].pixels.numpy()
    towers = {(PLAIN, vision.full_tokens): stages.Tower(vision, (), ort_lowering.TowerAttention)}
    towers |= reducing_towers(vision, options.methods, options.budgets)
    sessions, work = {}, {}
    for key, tower in towers.items():
        print(*key, file=sys.stderr, flush=True)
        model = build(tower)
        work[key] = flops(model)
        sessions[key] = session_of(model, options.threads)
    times = measure(sessions, pixels, options.rounds)
    base = (PLAIN, vision.full_tokens)
    rows = [row(key, times[key], times[base], work[key] / work[base], work[key]) for key in towers]
    threads = f"{options.threads} thread{'s' if options.threads > 1 else ''}"
    beside = ", beside other work on the machine" * options.busy
    title = f"towers of one image, float32, {threads}{beside}"
    common.report(title, rows, options.json, of=("tower", "tokens"))


def reducing_towers(
    vision: VisionParts, methods: Sequence[str], budgets: Sequence[int]
) -> dict[tuple[str, int], StageModule]:
    """A tower per method and budget; budgets that a method cannot meet are left out."""
    found: dict[tuple[str, int], StageModule] = {}
    for name in methods:
        inside = TOWER_METHODS[name].inside
        assert inside is not None  # noqa: S101
        possible = inside.budgets(reducing.encoder_of(vision))
        for budget in sorted(set(budgets) & set(possible)):
            attention = ort_lowering.fused_attention
            found[name, budget] = reducing.ReducingTower(vision, inside, budget, attention)
    return found


def build(tower: StageModule) -> ir.Model:
    with quiet():
        return fuse(trace(tower.eval(), tower.inputs, tower.outputs, "tower"))


def session_of(model: ir.Model, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.disable_prepacking", "1")  # as the runtime has it
    graph = ir.to_proto(model).SerializeToString()
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def measure(sessions: dict[Any, Any], pixels: Any, rounds: int) -> dict[Any, list[float]]:
    """Milliseconds of each tower in each round; the first round, which warms up, is left out."""
    times: dict[Any, list[float]] = {key: [] for key in sessions}
    for _ in range(rounds + 1):
        for key, session in sessions.items():
            started = time.perf_counter()
            session.run(None, {names.PIXELS: np.ascontiguousarray(pixels)})
            times[key].append(1e3 * (time.perf_counter() - started))
    return {key: values[1:] for key, values in times.items()}


def row(
    key: tuple[str, int], values: list[float], base: list[float], share: float, work: float
) -> dict[str, Any]:
    ratios = [b / v for v, b in zip(values, base, strict=True)]
    return {
        "tower": key[0],
        "tokens": key[1],
        "ms": statistics.median(values),
        "times as fast": statistics.median(ratios),
        "slowest ratio": min(ratios),
        "fastest ratio": max(ratios),
        "GFLOP": work / 1e9,
        "of the plain FLOPs": share,
    }


def flops(model: ir.Model) -> float:
    """Arithmetic of matrix products, attention and convolution of a static graph."""
    return float(sum(_flops_of(node) for node in model.graph))


def _flops_of(node: ir.Node) -> int:
    if node.op_type == "GroupQueryAttention":  # of a prompt: causal, so half of the square
        rows, past = _shape(node.inputs[0])[1], _shape(node.inputs[3])
        return 2 * rows * rows * node.attributes.get_int("num_heads", 0) * past[3]
    if node.op_type not in ("MatMul", "Gemm", "MultiHeadAttention", "Conv"):
        return 0
    left, right = _shape(node.inputs[0]), _shape(node.inputs[1])
    if node.op_type == "MultiHeadAttention":
        return 4 * math.prod(left) * right[1]
    if node.op_type == "Conv":
        return 2 * math.prod(_shape(node.outputs[0])) * math.prod(right[1:])
    if node.op_type == "Gemm":
        left = left[::-1] if node.attributes.get_int("transA", 0) else left
        right = right[::-1] if node.attributes.get_int("transB", 0) else right
    return _flops_of_product(left, right)


def _flops_of_product(left: list[int], right: list[int]) -> int:
    """By the shapes of the factors, for rewrites leave some products without one."""
    left = [1, *left] if len(left) == 1 else left
    right = [*right, 1] if len(right) == 1 else right
    batch = np.broadcast_shapes(tuple(left[:-2]), tuple(right[:-2]))
    return 2 * math.prod(batch) * left[-2] * left[-1] * right[-1]


def _shape(value: ir.Value | None) -> list[int]:
    if value is None or value.shape is None:
        raise ValueError("a value of the graph has no shape, so its arithmetic cannot be counted")
    return [int(dim) for dim in value.shape]


if __name__ == "__main__":
    main()
