"""Products of whole numbers against the same arithmetic in NumPy, and what rows owe each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetok.export.lowering.levels import round_levels
from edgetok.export.lowering.quantize import Quantizer, dequantize_matrix, quantize_matrix
from edgetok.export.lowering.unpacking import PackedMatrix, make_unpack

Array = np.ndarray[Any, Any]
TOWER = {"tower": 8}


def _graph(shape: tuple[int, ...], weight: Array, bias: Array | None, before: str) -> ir.Model:
    """x -> an activation or nothing -> x @ weight, as a Gemm where there is a bias."""
    x = ir.Value(name="x", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
    constants = [ir.Value(name="w", const_value=ir.tensor(weight, name="w"))]
    nodes = [ir.node(before, [x])] if before else []
    rows = nodes[-1].outputs[0] if nodes else x
    rows.shape, rows.type = x.shape, x.type
    if bias is not None:
        constants.append(ir.Value(name="b", const_value=ir.tensor(bias, name="b")))
    nodes.append(ir.node("MatMul" if bias is None else "Gemm", [rows, *constants]))
    y = nodes[-1].outputs[0]
    y.name, y.type = "y", ir.TensorType(ir.DataType.FLOAT)
    y.shape = ir.Shape([*shape[:-1], weight.shape[1]])
    graph = ir.Graph([x], [y], nodes=nodes, initializers=constants, opset_imports={"": 21})
    return ir.Model(graph, ir_version=10)


def _run(model: ir.Model, feeds: dict[str, Array]) -> list[Array]:
    data = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def _by_hand(x: Array, weight: Array, zero: int) -> Array:
    """Each row with its own step, in exact integers."""
    low, high = x.min(-1, keepdims=True) / -zero, x.max(-1, keepdims=True) / (255 - zero)
    step = np.maximum(np.maximum(low, high), 1e-30).astype(np.float32)
    levels = np.clip(np.rint(x / step) + zero, 0, 255).astype(np.int64) - zero
    columns = np.abs(weight).max(0) / 127
    return levels @ np.rint(weight / columns).astype(np.int64) * step * columns


@settings(max_examples=20, deadline=None)
@given(
    shape=st.sampled_from([(1, 64), (7, 64), (1, 5, 65), (2, 3, 64), (1, 1, 130)]),
    columns=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_products_are_those_of_integers(shape: tuple[int, ...], columns: int, seed: int) -> None:
    numbers = np.random.default_rng(seed)
    x = numbers.normal(size=shape).astype(np.float32)
    weight = numbers.normal(size=(shape[-1], columns)).astype(np.float32)
    model = Quantizer().quantize(_graph(shape, weight, None, ""), "tower", TOWER)
    assert "MatMulIntegerToFloat" in [node.op_type for node in model.graph]
    (got,) = _run(model, {"x": x})
    np.testing.assert_allclose(got, _by_hand(x, weight, 128), rtol=1e-4, atol=2e-2)


def test_bias_is_added_and_activations_are_one_sided() -> None:
    numbers = np.random.default_rng(3)
    x = numbers.normal(size=(9, 96)).astype(np.float32)
    weight = numbers.normal(size=(96, 8)).astype(np.float32)
    bias = numbers.normal(size=8).astype(np.float32)
    model = Quantizer().quantize(_graph(x.shape, weight, bias, "Relu"), "tower", TOWER)
    (got,) = _run(model, {"x": x})
    want = _by_hand(np.maximum(x, 0), weight, 16) + bias
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-2)


@pytest.mark.parametrize("factor", [1e-3, 1e3, 0.0])
def test_a_row_does_not_change_another(factor: float) -> None:
    numbers = np.random.default_rng(4)
    x = numbers.normal(size=(1, 12, 64)).astype(np.float32)
    weight = numbers.normal(size=(64, 16)).astype(np.float32)
    model = Quantizer().quantize(_graph(x.shape, weight, None, ""), "tower", TOWER)
    other = x.copy()
    other[0, 3] *= factor
    (before,), (after,) = _run(model, {"x": x}), _run(model, {"x": other})
    rest = [row for row in range(12) if row != 3]
    assert (before[0, rest] == after[0, rest]).all()
    np.testing.assert_allclose(after[0, 3], factor * before[0, 3], rtol=1e-3, atol=1e-3 * factor)


@pytest.mark.parametrize("rows", [64, 96, 100])
def test_unpacked_weights_are_the_blocks_in_columns(rows: int) -> None:
    weight = np.random.default_rng(5).normal(size=(rows, 24)).astype(np.float32)
    packed, scales = quantize_matrix(weight, 4)
    matrix = PackedMatrix(packed, scales, rows)
    (levels,) = _run(make_unpack({"w": matrix}), {})
    assert levels.dtype == np.int8 and levels.shape == weight.shape
    assert np.abs(levels.astype(int)).max() <= 63  # what AVX2 adds without overflow
    want, step = dequantize_matrix(packed, scales, rows, 4), matrix.column_scales
    assert (np.abs(levels * step - want) <= 0.501 * step).all()


def test_four_bits_are_stored_once_for_all_graphs() -> None:
    weight = np.random.default_rng(6).normal(size=(64, 24)).astype(np.float32)
    quantizer, bits = Quantizer(), {"prefill": 4, "decode": 4}
    prefill = quantizer.quantize(_graph((1, 9, 64), weight, None, ""), "prefill", bits)
    decode = quantizer.quantize(_graph((1, 1, 64), weight, None, ""), "decode", bits)
    unpack = quantizer.make_unpack()
    assert unpack is not None
    x = np.random.default_rng(7).normal(size=(1, 9, 64)).astype(np.float32)
    name = unpack.graph.outputs[0].name
    assert [value.name for value in prefill.graph.inputs] == ["x", name]
    (whole,) = _run(prefill, {"x": x, name: _run(unpack, {})[0]})
    for row in range(9):
        (one,) = _run(decode, {"x": x[:, row : row + 1]})
        np.testing.assert_allclose(whole[:, row : row + 1], one, atol=0.4)  # 4 % of a value of 8


def test_levels_of_zeros_are_zeros() -> None:
    levels, scales = round_levels(np.zeros((64, 3), np.float32), 8)
    assert not levels.any() and (scales == 1).all()
