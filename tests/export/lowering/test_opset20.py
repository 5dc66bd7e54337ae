"""Portable graphs in operators of opset 20, against those of opset 24."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgetok.bundle.reader import Bundle
from edgetok.engines.build import build_engine
from edgetok.engines.plan import plan_engines
from edgetok.engines.toolkit import Target, find_toolkit
from edgetok.errors import IncompatibleError
from edgetok.export.lowering.opset20 import lower
from edgetok.export.pipeline import export_model

LATER = {"Attention", "RMSNormalization", "RotaryEmbedding", "TensorScatter"}
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def run(data: bytes, root: Path, feeds: dict[str, Any]) -> list[np.ndarray]:
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    key = "session.model_external_initializers_file_folder_path"
    settings.add_session_config_entry(key, str(root))
    session = ort.InferenceSession(data, settings, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def graph_of(op: str, inputs: dict[str, Any], shape: list[int], **attributes: Any) -> bytes:
    """One operator of opset 24, over inputs of these values."""
    kinds = {np.dtype(np.float32): FLOAT, np.dtype(np.int64): INT64, np.dtype(np.bool_): BOOL}
    ends = [
        helper.make_tensor_value_info(name, kinds[value.dtype], value.shape)
        for name, value in inputs.items()
    ]
    node = helper.make_node(op, list(inputs), ["y"], **attributes)
    y = helper.make_tensor_value_info("y", FLOAT, shape)
    graph = helper.make_graph([node], "g", ends, [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=12)
    return bytes(model.SerializeToString())


def lowered(data: bytes) -> onnx.ModelProto:
    model = ir.to_proto(lower(ir.from_proto(onnx.load_model_from_string(data))))
    assert not LATER & {node.op_type for node in model.graph.node}
    return model


def rows(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


SEEN = np.tril(np.ones((5, 9), np.bool_))[None, None]
ONE_OPERATOR: dict[str, tuple[str, dict[str, Any], list[int], dict[str, Any]]] = {
    "norm": ("RMSNormalization", {"x": rows(1, 5, 8), "s": rows(8)}, [1, 5, 8], {"epsilon": 1e-3}),
    "rotary": (
        "RotaryEmbedding",
        {
            "x": rows(1, 2, 5, 8),
            "c": rows(12, 4),
            "s": rows(12, 4) + 1,
            "p": np.array([[3, 0, 11, 4, 4]]),
        },
        [1, 2, 5, 8],
        {},
    ),
    "a part that is turned": (
        "RotaryEmbedding",
        {"x": rows(1, 2, 5, 8), "c": rows(12, 2), "s": rows(12, 2), "p": np.arange(5)[None]},
        [1, 2, 5, 8],
        {"rotary_embedding_dim": 4},
    ),
    "a tower of two parts": (
        "Attention",
        {"q": rows(2, 4, 9, 8), "k": rows(2, 4, 9, 8), "v": rows(2, 4, 9, 8)},
        [2, 4, 9, 8],
        {"scale": 0.4},
    ),
    "groups and a mask": (
        "Attention",
        {"q": rows(1, 6, 5, 8), "k": rows(1, 2, 9, 8), "v": rows(1, 2, 9, 8) + 1, "m": SEEN},
        [1, 6, 5, 8],
        {},
    ),
    "a bias": (
        "Attention",
        {
            "q": rows(1, 2, 9, 8),
            "k": rows(1, 2, 9, 8),
            "v": rows(1, 2, 9, 8),
            "m": rows(1, 1, 9, 9),
        },
        [1, 2, 9, 8],
        {},
    ),
    "rows into a cache": (
        "TensorScatter",
        {"c": rows(1, 3, 9, 4), "r": rows(1, 3, 2, 4), "at": np.array([6])},
        [1, 3, 9, 4],
        {"axis": 2},
    ),
}


@pytest.mark.parametrize("name", ONE_OPERATOR)
def test_an_operator_spelled_out(name: str) -> None:
    op, inputs, shape, attributes = ONE_OPERATOR[name]
    data = graph_of(op, inputs, shape, **attributes)
    model = lowered(data)
    onnx.checker.check_model(model, full_check=True)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 20)]
    (want,), (got,) = (run(each, Path(), inputs) for each in (data, model.SerializeToString()))
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)


def test_a_form_without_a_spelling_is_refused() -> None:
    inputs = {"x": rows(1, 2, 5, 8), "c": rows(12, 4), "s": rows(12, 4), "p": np.arange(5)[None]}
    data = graph_of("RotaryEmbedding", inputs, [1, 2, 5, 8], interleaved=1)
    with pytest.raises(IncompatibleError, match="--flavour portable"):
        lowered(data)


def test_blocks_of_four_bits_need_opset_21() -> None:
    levels = helper.make_tensor("w", TensorProto.INT4, [4, 2], np.arange(-4, 4))
    scales = numpy_helper.from_array(np.ones((2, 2), np.float32), "s")
    node = helper.make_node("DequantizeLinear", ["w", "s"], ["y"], axis=0, block_size=2)
    y = helper.make_tensor_value_info("y", FLOAT, [4, 2])
    graph = helper.make_graph([node], "g", [], [y], [levels, scales])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=12)
    assert lowered(model.SerializeToString()).opset_import[0].version == 21


def test_whole_stages_compute_the_same(portable_bundle: Path) -> None:
    opened = Bundle.open(portable_bundle)
    for stage in (s for s in opened.manifest.stages if s.flavour == "portable"):
        generator, feeds = np.random.default_rng(1), {}
        for tensor in stage.inputs:
            made = generator.normal(size=tensor.shape).astype(np.float32)
            held = np.full(tensor.shape, 20, tensor.dtype)  # so many rows lie in the cache
            feeds[tensor.name] = made if tensor.dtype == "float32" else held
        data = opened.graph(stage)
        model = lowered(data)
        want = run(data, opened.root, feeds)
        got = run(model.SerializeToString(), opened.root, feeds)
        for one, other in zip(want, got, strict=True):
            np.testing.assert_allclose(other, one, rtol=0, atol=2e-5, err_msg=stage.file)


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "kv"), [("fp32", "fp32"), ("int8", "int8"), ("int4", "fp32")])
def test_the_gate_holds_them_and_engines_build(
    model_dir: Path, samples: Path, tmp_path: Path, weights: str, kv: str
) -> None:
    out, options = tmp_path / "x.bundle", {"prompt_tokens": 64, "new_tokens": 8}
    report = export_model(
        *(model_dir, out),
        budgets="4,8",
        weights=weights,
        kv=kv,
        samples=samples,
        flavour="portable-20",
        parity_images=1,
        **options,
    )
    checks = [c for c in report.parity["checks"] if c["stage"].startswith("portable")]
    assert checks and all(check["passed"] for check in checks)
    opened = Bundle.open(out)
    for stage in (s for s in opened.manifest.stages if s.flavour == "portable"):
        model = onnx.load_model_from_string(opened.graph(stage))
        assert model.opset_import[0].version <= (21 if weights == "int4" else 20)
        assert not LATER & {node.op_type for node in model.graph.node}
    pytest.importorskip("tensorrt_rtx", reason="pip install 'edgetok[rtx]'")
    toolkit, two = find_toolkit("rtx"), Target("rtx", ("sm86", "sm120"))
    jobs = plan_engines(opened, flavour="portable")
    assert "prefill" in {job.name for job in jobs}  # rungs still share their weights
    assert all(build_engine(job, out, toolkit, two).data for job in jobs)
    oldest = Target("rtx", ("sm75",))
    if weights == "int4":
        with pytest.raises(IncompatibleError, match="no weights of 4 bits"):
            build_engine(jobs[-1], out, toolkit, oldest)
    else:
        build_engine(jobs[-1], out, toolkit, oldest)
