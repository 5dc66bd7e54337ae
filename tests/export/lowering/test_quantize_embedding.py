"""The embedding table in few bits: rows gathered, bytes on disk, what PyTorch is given."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx import helper

from edgetok import names
from edgetok.bundle.manifest import Flavour
from edgetok.export.lowering import portable
from edgetok.export.lowering.quantize_embedding import gather_blocks
from edgetok.export.lowering.rounding import hold_rounded
from edgetok.families import open_model
from edgetok.ladder import build_ladder

WORDS, IDS = 300, np.array([299, 0, 7, 7, 150, 298], np.int64)


def make_lookup(table: np.ndarray) -> ir.Model:
    float32, int64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", names.TOKEN_IDS], ["rows"])],
        "lookup",
        [helper.make_tensor_value_info(names.TOKEN_IDS, int64, IDS.shape)],
        [helper.make_tensor_value_info("rows", float32, (*IDS.shape, table.shape[1]))],
        [onnx.numpy_helper.from_array(table, "table")],
    )
    opsets = [helper.make_opsetid("", portable.OPSET)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))


def run(model: ir.Model) -> np.ndarray:
    data = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    (rows,) = session.run(["rows"], {names.TOKEN_IDS: IDS})
    return np.asarray(rows)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("width", [64, 80, 96])  # 80 is two and a half blocks
def test_gathered_rows_lose_no_more_than_by_rounding_to_nearest(width: int, bits: int) -> None:
    table = np.random.default_rng(width).normal(size=(WORDS, width)).astype(np.float32)
    table[7] *= 100  # a row of its own scale spoils no other
    model = make_lookup(table)
    gather_blocks(model, bits)
    rows, wanted = run(model), table[IDS]
    assert "table" not in model.graph.initializers and rows.shape == wanted.shape
    step = np.abs(wanted).max(1, keepdims=True) / 2 ** (bits - 1)
    nearest = (
        wanted - np.clip(np.rint(wanted / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * step
    )
    assert 0 < np.square(rows - wanted).sum() <= np.square(nearest).sum()


@pytest.mark.parametrize("bits", [4, 8])
def test_a_table_after_dequantize_linear_is_within_a_step_too(bits: int) -> None:
    table = np.random.default_rng(bits).normal(size=(WORDS, 96)).astype(np.float32)
    model = make_lookup(table)
    portable.lower(model, "embed", {"table": bits})
    wanted = table[IDS]
    step = np.abs(wanted).max(1, keepdims=True) / (2 ** (bits - 1) - 1)
    assert 0 < (np.abs(run(model) - wanted) / step).max() <= 0.501


def test_a_narrow_table_and_another_lookup_stay_as_they_are() -> None:
    narrow = make_lookup(np.ones((WORDS, 32), np.float32))
    other = make_lookup(np.ones((WORDS, 64), np.float32))
    other.graph.inputs[0].name = "positions"
    for model in (narrow, other):
        gather_blocks(model, 8)
        assert [node.op_type for node in model.graph] == ["Gather"]


@pytest.mark.parametrize("flavour", ["ort", "portable"])
@pytest.mark.parametrize(("decoder", "stored"), [("llama", 1), ("gemma", 1), ("biased", 2)])
def test_a_tied_table_is_the_head_s_bytes_and_the_reference_is_rounded_alike(
    tiny_llava: ModuleType,
    building: ModuleType,
    tmp_path: Path,
    flavour: Flavour,
    decoder: str,
    stored: int,
) -> None:
    parts = open_model(tiny_llava.write_tiny_llava(tmp_path / "model", decoder=decoder))
    assert (parts.text.embed.weight is parts.text.head.weight) == (stored == 1)
    ladder = build_ladder([4], 16, 4)
    builder = building.make_builder(parts, ladder, flavour=flavour, weights="int8")
    graphs = building.build(builder, "embed", "decode")
    words, width = parts.text.embed.weight.shape
    assert len(find_matrices(graphs, words * width)) == stored
    runner = building.run_graphs(builder, tmp_path, graphs)
    ids = np.arange(16, dtype=np.int64)
    got = runner.run("embed", None, {names.TOKEN_IDS: ids})[names.TEXT_EMBEDS]
    exact = parts.text.embed(torch.from_numpy(ids)).detach().numpy()
    with hold_rounded(parts, "int8", flavour):
        rounded = parts.text.embed(torch.from_numpy(ids)).detach().numpy()
    np.testing.assert_allclose(got, rounded, rtol=1e-6, atol=0)
    assert 0 < np.abs(rounded - exact).max() <= np.abs(exact).max() / 127
    np.testing.assert_array_equal(parts.text.embed(torch.from_numpy(ids)).detach().numpy(), exact)


def find_matrices(graphs: list, size_bytes: int) -> set[str]:
    """Where in the weights file lie tensors of so many bytes."""
    models = [onnx.load_model_from_string(graph.data) for graph in graphs]
    tensors = [tensor for model in models for tensor in model.graph.initializer]
    told = [{entry.key: entry.value for entry in tensor.external_data} for tensor in tensors]
    return {each["offset"] for each in told if each and int(each["length"]) == size_bytes}
