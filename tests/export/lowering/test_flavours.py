"""Compressors as export lowers them, in both flavours and on both kinds of tower.

Features are random and adversarial: ties, duplicates, constants, zeros, an outlier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from edgetok import names
from edgetok.bundle.manifest import Flavour
from edgetok.errors import UsageError
from edgetok.export.graph import Graph
from edgetok.export.lowering import portable
from edgetok.export.lowering.levels import round_matrix
from edgetok.export.reference.model import Reference
from edgetok.families import open_model
from edgetok.families.parts import Parts
from edgetok.ladder import build_ladder
from edgetok.methods import METHODS, Method, find_method

FLAVOURS: tuple[Flavour, ...] = ("ort", "portable")
# 36 patches, which is no power of two; 16; and a grid of 24 x 24, as the demo model's
SIDES_PX = {"clip": 48, "siglip": 32, "clip 24x24": 192}
SAMPLED = ("visionzip", "divprune", "aim", "vflowopt")
DISTINCT = {"random", "ties", "outlier"}  # cases in which no two rows of features are alike
DYNAMIC = {"NonZero", "Unique", "If", "Loop", "Scan", "Compress"}


@pytest.fixture(scope="session")
def towers(tiny_llava: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Parts]:
    """One model of each kind of tower, of three sizes."""
    folder = tmp_path_factory.mktemp("towers")
    return {
        name: open_model(
            tiny_llava.write_tiny_llava(folder / name, tower=name.split()[0], side_px=side_px)
        )
        for name, side_px in SIDES_PX.items()
    }


def require_static(graph: Graph) -> None:
    """No shape depends on data, nothing branches, and portable graphs name standard operators."""
    model = onnx.load_model_from_string(graph.data)
    assert not DYNAMIC & {node.op_type for node in model.graph.node}
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    for value in [*inferred.input, *inferred.output, *inferred.value_info]:
        dims = value.type.tensor_type.shape.dim
        assert all(dim.HasField("dim_value") for dim in dims), value.name
    if graph.stage.flavour == "portable":
        assert [(o.domain, o.version) for o in model.opset_import] == [("", portable.OPSET)]
        assert {node.domain for node in model.graph.node} == {""}
        for node in model.graph.node:
            assert onnx.defs.has(node.op_type, "")


def three_budgets(method: Method, parts: Parts) -> list[int]:
    n, grid = parts.vision.full_tokens, parts.vision.grid
    possible = [k for k in method.budgets(n, grid) if 2 <= k < n]
    return sorted({possible[len(possible) * quarter // 4] for quarter in (1, 2, 3)})


Compare = Callable[[Parts, Method, Flavour, Iterable[int]], None]


@pytest.fixture
def compare(building: ModuleType, tmp_path: Path, method_cases: Any) -> Compare:
    """The graphs of some budgets against PyTorch, on features of every case."""
    return lambda *given: _compare(building, tmp_path, method_cases, *given)


def _compare(
    building: ModuleType,
    folder: Path,
    cases: Any,
    parts: Parts,
    method: Method,
    flavour: Flavour,
    budgets: Iterable[int],
) -> None:
    budgets, grid = sorted(budgets), parts.vision.grid
    ladder = build_ladder(budgets, 32, 4)
    builder = building.make_builder(parts, ladder, method=method, flavour=flavour)
    graphs = building.build(builder, "compress")
    assert len(graphs) == len(budgets)
    runner, reference = building.run_graphs(builder, folder, graphs), Reference(parts, method)
    for graph in graphs:
        require_static(graph)
    for case in cases.CASES:
        features = cases.build_features(case, grid, method.needs, width=parts.vision.width)
        seen = {names.FEATURES: features.x, **features.probes}
        feeds = runner.pad_prompt({name: value.numpy() for name, value in seen.items()})
        for k in budgets:
            want, got = reference.compress(seen, k), runner.run("compress", k, feeds)
            where = f"{case} at {k}"
            if case in DISTINCT and is_undecided(reference, seen, k, got[names.KEPT]):
                continue
            np.testing.assert_array_equal(got[names.KEPT], want[names.KEPT], err_msg=where)
            for name in (names.SIZES, names.VISUAL_TOKENS):
                value = want[name].numpy()
                # Relative to the largest: sums in another order differ by a few of its last bits.
                scale = max(1.0, float(np.abs(value).max()))
                np.testing.assert_allclose(
                    got[name], value, rtol=0, atol=1e-5 * scale, err_msg=where
                )


def is_undecided(reference: Reference, seen: Any, k: int, kept: Any) -> bool:
    """Whether PyTorch itself keeps other tokens when features move in their last bit.

    Over dozens of rounds, two of the many similarities compared may differ by no more than that.
    """
    plain = reference.compress(seen, k)[names.KEPT].numpy()
    if (kept == plain).all():
        return False
    generator = torch.Generator().manual_seed(0)
    x = seen[names.FEATURES]
    for _ in range(8):
        moved = x * (1 + 1e-7 * torch.randn(x.shape, generator=generator))
        other = reference.compress({**seen, names.FEATURES: moved}, k)[names.KEPT].numpy()
        if (other != plain).any():
            return True
    return False


def form_for(parts: Parts, name: str) -> Method:
    try:
        return find_method(name).for_tower(parts.vision.prefix_tokens)
    except UsageError:
        pytest.skip("reads what only a CLS token tells")


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize(("name", "tower"), list(zip(SAMPLED, ("clip", "siglip") * 2, strict=True)))
def test_compressors_keep_what_torch_keeps(
    name: str, tower: str, flavour: Flavour, towers: Any, compare: Compare
) -> None:
    method = form_for(towers[tower], name)
    budget = three_budgets(method, towers[tower])[1]
    compare(towers[tower], method, flavour, [budget])


@pytest.mark.slow
@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("tower", SIDES_PX)
@pytest.mark.parametrize("name", METHODS)
def test_every_compressor_keeps_what_torch_keeps(
    name: str, tower: str, flavour: Flavour, towers: Any, compare: Compare
) -> None:
    method = form_for(towers[tower], name)
    compare(towers[tower], method, flavour, three_budgets(method, towers[tower]))


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_dequantized_weights_are_the_rounded_ones(bits: int, turned: bool) -> None:
    weight = np.random.default_rng(bits).normal(size=(80, 40)).astype(np.float32)  # 2.5 blocks
    weight[:, 3] = 0
    model = _linear(weight, turned)
    portable.quantize(model, bits)
    x = np.eye(80, dtype=np.float32)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"x": x})
    rounded = round_matrix(weight, bits)
    np.testing.assert_allclose(got, rounded, rtol=0, atol=1e-6)
    step = np.abs(weight).max() / (2 ** (bits - 1) - 1)
    # Of numbers between levels that are a step apart; a few are clipped to have all others nearer.
    assert 0 < np.square(rounded - weight).mean() <= step**2 / 12


def _linear(weight: np.ndarray, turned: bool) -> ir.Model:
    """x @ weight, or a Gemm that reads the weight turned."""
    held = ir.tensor(np.ascontiguousarray(weight.T) if turned else weight, name="w")
    x = ir.Value(name="x", shape=ir.Shape([80, 80]), type=ir.TensorType(ir.DataType.FLOAT))
    w = ir.Value(name="w", shape=held.shape, type=ir.TensorType(held.dtype), const_value=held)
    node = ir.node("Gemm" if turned else "MatMul", [x, w], {"transB": 1} if turned else {})
    out = node.outputs[0]
    out.name, out.shape, out.type = "y", ir.Shape([80, weight.shape[1]]), x.type
    graph = ir.Graph(
        [x], [out], nodes=[node], initializers=[w], opset_imports={"": portable.OPSET}, name="g"
    )
    return ir.Model(graph, ir_version=portable.IR_VERSION)
