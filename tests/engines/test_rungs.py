"""Graphs of rungs joined, against the graphs themselves in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgetok import names
from edgetok.bundle.reader import Bundle
from edgetok.engines.half import halve
from edgetok.engines.plan import EngineJob, list_cache, plan_engines
from edgetok.engines.rungs import join_rungs


def run(data: bytes, root: Path, feeds: dict[str, Any]) -> dict[str, np.ndarray]:
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(root)
    )
    session = ort.InferenceSession(data, settings, providers=["CPUExecutionProvider"])
    wanted = [output.name for output in session.get_outputs()]
    return dict(zip(wanted, session.run(wanted, feeds), strict=True))


def make_feeds(stage: Any, seed: int) -> dict[str, np.ndarray]:
    """A prompt of random rows; the cache that it is written into holds other rows."""
    generator = np.random.default_rng(seed)
    feeds = {}
    for tensor in stage.inputs:
        if tensor.dtype == "float32":
            feeds[tensor.name] = generator.normal(size=tensor.shape).astype(np.float32)
        else:
            feeds[tensor.name] = np.ones(tensor.shape, tensor.dtype)
    return feeds


@pytest.fixture(scope="module")
def opened(portable_bundle: Path) -> Bundle:
    return Bundle.open(portable_bundle)


@pytest.fixture(scope="module")
def prefill(opened: Bundle) -> EngineJob:
    jobs = plan_engines(opened, flavour="portable", precision="fp32")
    return next(job for job in jobs if job.name == "prefill")


def test_one_graph_computes_what_each_rungs_own_does(opened: Bundle, prefill: EngineJob) -> None:
    assert [stage.budget for stage in prefill.stages] == list(opened.ladder.budgets)
    for index, stage in enumerate(prefill.stages):
        feeds = make_feeds(stage, index)
        want = run(opened.graph(stage), opened.root, feeds)
        got = run(prefill.data, opened.root, feeds | dict(prefill.graph.constants[index]))
        assert want.keys() == got.keys()
        for name, value in want.items():
            np.testing.assert_array_equal(got[name], value, err_msg=f"{stage.file} {name}")


def test_every_stage_is_built_once(opened: Bundle) -> None:
    jobs = plan_engines(opened, flavour="portable")
    served = [stage.file for job in jobs for stage in job.stages]
    wanted = [s.file for s in opened.manifest.stages if s.flavour == "portable"]
    assert sorted(served) == sorted(wanted)
    assert len({job.name for job in jobs}) == len(jobs)
    assert [job.weights_bytes for job in jobs] == sorted(job.weights_bytes for job in jobs)


def test_products_in_half_precision_are_near(opened: Bundle, prefill: EngineJob) -> None:
    """Logits move by what eleven bits of a product allow, and the choice of a token does not."""
    (halved,) = (
        job
        for job in plan_engines(opened, flavour="portable", precision="fp16")
        if job.name == "prefill"
    )
    stage = prefill.stages[0]
    cache, feeds = list_cache(stage), make_feeds(stage, 3)
    want = run(opened.graph(stage), opened.root, feeds)
    rows = {n: v.astype(np.float16) if n in cache else v for n, v in feeds.items()}
    got = run(halved.data, opened.root, rows | dict(halved.graph.constants[0]))
    assert {got[name].dtype for name in cache if name in got} == {np.dtype(np.float16)}
    assert got[names.LOGITS].dtype == np.float32
    scale = np.abs(want[names.LOGITS]).max()
    assert 0 < np.abs(got[names.LOGITS] - want[names.LOGITS]).max() < 0.02 * scale


def test_only_products_are_halved(prefill: EngineJob) -> None:
    graph = prefill.graph.model
    halved = halve(graph, "bf16", list_cache(prefill.stages[0]))
    casts = {n.output[0]: n for n in halved.graph.node if n.op_type == "Cast"}
    for node in halved.graph.node:
        operands = [n for n in node.input if n in casts and "/operand_" in n]
        assert not operands or node.op_type in ("MatMul", "Gemm", "Attention", "TensorScatter")
    scatters = [n for n in halved.graph.node if n.op_type == "TensorScatter"]
    ends = {value.name for value in [*halved.graph.input, *halved.graph.output]}
    assert scatters  # what lies in memory is scattered into, with no cast between
    assert all(n.input[0] in ends and n.output[0] in ends for n in scatters)
    kinds = {v.name: v.type.tensor_type.elem_type for v in halved.graph.input}
    assert kinds["past_key_0"] == TensorProto.BFLOAT16
    assert kinds[names.INPUT_EMBEDS] == TensorProto.FLOAT


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_of_few_bits_come_out_halved(bits: int) -> None:
    """No cast stands between a weight and its product, and the numbers are the rounded ones."""
    generator = np.random.default_rng(bits)
    levels = generator.integers(-7, 8, (64, 32), np.int8)
    kind, axis = (TensorProto.INT4, 0) if bits == 4 else (TensorProto.INT8, 1)
    scales = generator.uniform(0.01, 0.02, (2, 32) if bits == 4 else 32).astype(np.float32)
    blocks = {"block_size": 32} if bits == 4 else {}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["weight"], axis=axis, **blocks),
        helper.make_node("MatMul", ["x", "weight"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(*end) for end in (("x", 1, [3, 64]), ("y", 1, [3, 32]))]
    held = [helper.make_tensor("w", kind, [64, 32], levels.ravel().tolist())]
    graph = helper.make_graph(
        nodes, "g", ends[:1], ends[1:], [*held, numpy_helper.from_array(scales, "s")]
    )
    opsets = [helper.make_opsetid("", 21)]
    halved = halve(helper.make_model(graph, opset_imports=opsets, ir_version=10), "fp16", [])
    (product,) = (node for node in halved.graph.node if node.op_type == "MatMul")
    assert product.input[1] == "weight"
    x = generator.normal(size=(3, 64)).astype(np.float32)
    weight = levels * (np.repeat(scales, 32, axis=0) if bits == 4 else scales)
    (got,) = run(halved.SerializeToString(), Path(), {"x": x}).values()
    np.testing.assert_allclose(got, x @ weight, atol=0.01)
    assert got.dtype == np.float32 and np.abs(got).max() > 0.3


def test_scales_of_a_cache_of_bytes_stay_float32() -> None:
    """TensorRT scatters into inputs of the network alone, so no cast may stand in between."""
    node = helper.make_node("TensorScatter", ["past_key_scale_0", "row", "at"], ["y"], axis=2)
    ends = {"past_key_scale_0": [1, 2, 8, 1], "row": [1, 2, 1, 1], "y": [1, 2, 8, 1]}
    values = {name: helper.make_tensor_value_info(name, 1, shape) for name, shape in ends.items()}
    at = helper.make_tensor_value_info("at", TensorProto.INT64, [1])
    graph = helper.make_graph(
        [node], "g", [values["past_key_scale_0"], values["row"], at], [values["y"]]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=12)
    assert [n.op_type for n in halve(model, "fp16", ["past_key_0"]).graph.node] == ["TensorScatter"]


def reshaping(rows: int, axis_value: int = 1) -> onnx.ModelProto:
    """x [rows, 6] + a constant [rows, 1], as [2, rows, 3], summed over an axis."""
    shape = numpy_helper.from_array(np.array([2, rows, 3]), "shape")
    offset = numpy_helper.from_array(np.arange(rows, dtype=np.float32)[:, None], "offset")
    axes = numpy_helper.from_array(np.array([axis_value]), "axes")
    nodes = [
        helper.make_node("Add", ["x", "offset"], ["sum"]),
        helper.make_node("Reshape", ["sum", "shape"], ["folded"]),
        helper.make_node("ReduceSum", ["folded", "axes"], ["y"], keepdims=0),
    ]
    left = [d for axis, d in enumerate((2, rows, 3)) if axis != axis_value]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, left)
    inner = [
        helper.make_tensor_value_info("sum", TensorProto.FLOAT, [rows, 6]),
        helper.make_tensor_value_info("folded", TensorProto.FLOAT, [2, rows, 3]),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], [shape, offset, axes], value_info=inner)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_a_graph_made_by_hand() -> None:
    models = [reshaping(rows) for rows in (2, 5, 3)]
    joined = join_rungs(models, numpy_helper.to_array)
    assert joined is not None
    assert [shapes["offset"] for shapes in joined.shapes] == [(2, 1), (5, 1), (3, 1)]
    for rows, model, constants in zip((2, 5, 3), models, joined.constants, strict=True):
        feeds = {"x": np.random.default_rng(rows).normal(size=(rows, 6)).astype(np.float32)}
        want = run(model.SerializeToString(), Path(), feeds)
        got = run(joined.model.SerializeToString(), Path(), feeds | dict(constants))
        np.testing.assert_array_equal(got["y"], want["y"])


def test_graphs_that_differ_in_more_are_not_joined() -> None:
    other_axis = [reshaping(2, axis_value=1), reshaping(5, axis_value=2)]
    assert join_rungs(other_axis, numpy_helper.to_array) is None
    renamed = [reshaping(2), reshaping(5)]
    renamed[1].graph.node[0].op_type = "Mul"
    assert join_rungs(renamed, numpy_helper.to_array) is None
