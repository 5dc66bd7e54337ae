"""Quantized matrices and the weights file."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxruntime.quantization.matmul_nbits_quantizer import (
    DefaultWeightOnlyQuantConfig,
    DefaultWeightOnlyQuantizer,
)

from edgetok import limits
from edgetok.export.lowering.quantize import Quantizer, dequantize_matrix, quantize_matrix
from edgetok.export.lowering.weight_file import FILE, WeightStore


@pytest.mark.parametrize("bits", [4, 8])
@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 300), columns=st.integers(1, 40), seed=st.integers(0, 99))
def test_no_block_loses_more_than_by_rounding_to_nearest(
    bits: int, rows: int, columns: int, seed: int
) -> None:
    weight = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
    packed, scales = quantize_matrix(weight, bits)
    size = packed.shape[2] * 8 // bits
    config = DefaultWeightOnlyQuantConfig(block_size=size, is_symmetric=True, bits=bits)
    nearest = DefaultWeightOnlyQuantizer(config).qbits_block_quant(weight)
    assert (packed.shape, scales.shape) == (nearest[0].shape, nearest[1].shape)
    ours, theirs = (
        block_losses(weight, dequantize_matrix(*each, rows, bits), size)
        for each in ((packed, scales), nearest[:2])
    )
    assert (ours <= theirs * 1.001 + 1e-9).all()


def block_losses(weight: np.ndarray, rounded: np.ndarray, size: int) -> np.ndarray:
    """Squared errors summed over each block."""
    lost = np.pad(np.square(weight - rounded), ((0, -len(weight) % size), (0, 0)))
    return np.asarray(lost.reshape(-1, size, weight.shape[1]).sum(1))


@pytest.mark.parametrize("bits", [4, 8])
def test_rounding_what_is_rounded_changes_nothing(bits: int) -> None:
    weight = np.random.default_rng(bits).normal(size=(576, 40)).astype(np.float32)
    once = dequantize_matrix(*quantize_matrix(weight, bits), 576, bits)
    twice = dequantize_matrix(*quantize_matrix(once, bits), 576, bits)
    np.testing.assert_allclose(twice, once, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("rows", "size"), [(64, 64), (96, 32), (576, 64), (768, 128), (1536, 128)])
def test_blocks_are_those_that_take_the_fewest_bytes(rows: int, size: int) -> None:
    packed, scales = quantize_matrix(np.ones((rows, 2), np.float32), 4)
    assert packed.shape == (2, -(-rows // size), size // 2) and packed.shape[:2] == scales.shape


@pytest.mark.parametrize("rows", [96, 300, 576])
def test_matmulnbits_multiplies_what_is_said_to_be_stored(rows: int) -> None:
    weight = np.random.default_rng(rows).normal(size=(rows, 64)).astype(np.float32)
    given, made = (ir.Shape([rows, rows]), ir.Shape([rows, 64]))
    x = ir.Value(name="x", shape=given, type=ir.TensorType(ir.DataType.FLOAT))
    held = ir.tensor(weight, name="w")
    w = ir.Value(name="w", shape=held.shape, type=ir.TensorType(held.dtype), const_value=held)
    node = ir.node("MatMul", [x, w])
    out = node.outputs[0]
    out.name, out.shape, out.type = "y", made, x.type
    graph = ir.Graph([x], [out], nodes=[node], initializers=[w], opset_imports={"": 20}, name="g")
    model = Quantizer().quantize(ir.Model(graph, ir_version=10), "decode", {"decode": 4})
    data = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"x": np.eye(rows, dtype=np.float32)})  # exact in any precision
    wanted = dequantize_matrix(*quantize_matrix(weight, 4), rows, 4)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


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
