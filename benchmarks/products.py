"""Products of ONNX Runtime by how a weight is stored, and what each makes of outliers.

    python benchmarks/products.py

Every round runs each kind once; medians of processor time, one thread. `off` is the distance to the
float32 product, of its length, for normal rows; `beside` is that of all other rows when one of them
is a hundred times as large.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import common
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from onnxruntime.quantization.matmul_nbits_quantizer import (
    DefaultWeightOnlyQuantConfig,
    DefaultWeightOnlyQuantizer,
)

from edgetok.export.lowering.levels import round_levels
from edgetok.export.lowering.names import CONTRIB
from edgetok.export.lowering.quantize import Quantizer

# M, K, N: prompts, a tower's two matrices, a chunk, a step.
SHAPES = (
    (160, 576, 1536),
    (672, 576, 1536),
    (577, 768, 3072),
    (577, 3072, 768),
    (16, 576, 1536),
    (1, 576, 1536),
)
Array = np.ndarray[Any, Any]


def main() -> None:
    options = common.arguments(__doc__, rounds=9)
    rows = [row for shape in SHAPES for row in measure(shape, options.rounds)]
    common.report("products, one thread", rows, options.json)


def measure(shape: tuple[int, int, int], rounds: int) -> list[dict[str, Any]]:
    """One row of the table for each kind of product of [M, K] and [K, N]."""
    count, depth, width = shape
    numbers = np.random.default_rng(0)
    weight = (numbers.standard_normal((depth, width)) * 0.05).astype(np.float32)
    x = numbers.standard_normal((count, depth)).astype(np.float32)
    large = x.copy()
    large[0] *= 100
    sessions = {name: _open(model, packed) for name, model, packed in _kinds(shape, weight)}
    taken: dict[str, list[int]] = {name: [] for name in sessions}
    for _ in range(rounds):
        for name, session in sessions.items():
            started = time.process_time_ns()
            session.run(None, {"x": x})
            taken[name].append(time.process_time_ns() - started)
    found = []
    for name, session in sessions.items():
        spent_us = statistics.median(taken[name]) / 1e3
        off = [
            _off(session.run(None, {"x": each})[0][1:], (each @ weight)[1:]) for each in (x, large)
        ]
        found.append({
            "M, K, N": f"{count}, {depth}, {width}", "kind": name, "us": round(spent_us),
            "Gop/s": round(2 * count * depth * width / spent_us / 1e3),
            "off": off[0], "beside": off[1],
        })  # fmt: skip
    return found


def _off(got: Array, want: Array) -> float:
    return round(float(np.linalg.norm(got - want) / max(float(np.linalg.norm(want)), 1e-9)), 5)


def _kinds(shape: tuple[int, int, int], weight: Array) -> list[tuple[str, ir.Model, bool]]:
    """Name, graph, and whether the session packs weights."""
    product = _graph(shape, "MatMul", {"w": weight})
    rounded = Quantizer().quantize(_graph(shape, "MatMul", {"w": weight}), "tower", {"tower": 8})
    levels, scales = round_levels(weight, 8)
    whole = {"q": levels, "s": scales.reshape(-1)}
    kinds = [
        ("float32", product, False),
        ("rows rounded one by one (edgetok)", rounded, False),
        ("the same, packed", rounded, True),
        ("DynamicQuantizeMatMul", _graph(shape, "DynamicQuantizeMatMul", whole), False),
    ]
    for bits, block in ((8, 32), (4, 32), (4, 128)):
        config = DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=True, bits=bits)
        packed, blocks, _ = DefaultWeightOnlyQuantizer(config).qbits_block_quant(weight)
        sizes = {
            "K": shape[1],
            "N": shape[2],
            "bits": bits,
            "block_size": block,
            "accuracy_level": 4,
        }
        stored = _graph(shape, "MatMulNBits", {"q": packed, "s": blocks}, **sizes)
        kinds.append((f"MatMulNBits {bits}/{block}, packed", stored, True))
        if block == 32:
            kinds.append((f"MatMulNBits {bits}/{block}", stored, False))
    return kinds


def _graph(
    shape: tuple[int, int, int], operator: str, constants: dict[str, Array], **attributes: int
) -> ir.Model:
    """x [M, K] -> y [M, N] through one operator."""
    float32 = ir.TensorType(ir.DataType.FLOAT)
    x = ir.Value(name="x", shape=ir.Shape(shape[:2]), type=float32)
    given = [ir.Value(name=n, const_value=ir.tensor(a, name=n)) for n, a in constants.items()]
    domain = "" if operator == "MatMul" else CONTRIB
    node = ir.node(operator, [x, *given], attributes=attributes, domain=domain)
    y = node.outputs[0]
    y.name, y.type, y.shape = "y", float32, ir.Shape([shape[0], shape[2]])
    opsets = {"": 21, CONTRIB: 1}
    graph = ir.Graph([x], [y], nodes=[node], initializers=given, opset_imports=opsets)
    return ir.Model(graph, ir_version=10)


def _open(model: ir.Model, packed: bool) -> Any:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.add_session_config_entry("session.disable_prepacking", "0" if packed else "1")
    data = ir.to_proto(model).SerializeToString()
    return ort.InferenceSession(data, settings, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
