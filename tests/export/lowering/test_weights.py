"""Quantized matrices and the weights file."""

from __future__ import annotations

import logging

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetok import limits
from edgetok.export.lowering.quantize import dequantize_matrix, quantize_matrix
from edgetok.export.lowering.weight_file import FILE, WeightStore


@pytest.mark.parametrize("bits", [4, 8])
@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 100), columns=st.integers(1, 40), seed=st.integers(0, 99))
def test_rounding_is_at_most_half_a_step(bits: int, rows: int, columns: int, seed: int) -> None:
    weight = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
    packed, scales = quantize_matrix(weight, bits)
    back = dequantize_matrix(packed, scales, rows, bits)
    step = np.repeat(scales, 32, axis=1)[:, :rows].T
    # The block's largest value falls on the level -8 or -128, so its opposite is a step short.
    short = weight / step > 2 ** (bits - 1) - 0.5
    allowed = np.abs(step) * np.where(short, 1.001, 0.501)
    assert (np.abs(back - weight) <= allowed).all()


def test_quantizer_leaves_the_root_logger_alone() -> None:
    before = (logging.getLogger().handlers[:], logging.getLogger().level)
    quantize_matrix(np.ones((64, 4), np.float32), 4)
    assert (logging.getLogger().handlers[:], logging.getLogger().level) == before


def _model(*arrays: np.ndarray) -> ir.Model:
    """A graph that adds constants to its input; the names of equal ones differ."""
    x = ir.Value(name="x", shape=ir.Shape([4]), type=ir.TensorType(ir.DataType.FLOAT))
    value, nodes, constants = x, [], []
    for number, array in enumerate(arrays):
        constant = ir.Value(name=f"c{number}", const_value=ir.tensor(array, name=f"c{number}"))
        constants.append(constant)
        nodes.append(ir.node("Add", [value, constant]))
        value = nodes[-1].outputs[0]
    graph = ir.Graph([x], [value], nodes=nodes, initializers=constants, opset_imports={"": 20})
    return ir.Model(graph, ir_version=10)


def test_equal_tensors_are_stored_once_across_graphs() -> None:
    store = WeightStore()
    first, second = np.arange(100, dtype=np.float32), np.ones((30, 30), np.float32)
    store.externalize(_model(first, second))
    store.externalize(_model(second.copy(), first.copy()))
    data = b"".join(store.chunks())
    assert len(data) == store.offset == 2 * limits.WEIGHTS_ALIGNMENT_BYTES
    assert data.startswith(first.tobytes())
    assert data[limits.WEIGHTS_ALIGNMENT_BYTES :].startswith(second.tobytes())


def test_small_tensors_stay_in_the_graph() -> None:
    store = WeightStore()
    graph = store.externalize(_model(np.ones(4, np.float32)))
    assert store.offset == 0 and FILE.encode() not in graph
