"""Every method as a graph: ONNX Runtime keeps what torch keeps, and nothing in it is dynamic."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor

from edgetok import names
from edgetok.methods import METHODS, Method
from edgetok.tokens import Features

QUICK = [((10, 10), 37)]
SLOW = [((10, 10), 5), ((10, 10), 80), ((24, 24), 32), ((24, 24), 192), ((24, 24), 400)]
DYNAMIC_OPS = {"NonZero", "Unique", "If", "Loop", "Scan", "Compress", "ScatterElements"}


every_method = pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))


class Compress(torch.nn.Module):
    """The compress stage as export builds it, with one linear layer for the projector."""

    def __init__(self, method: Method, grid: tuple[int, int], budget: int) -> None:
        super().__init__()
        self.method, self.grid, self.budget = method, grid, budget
        self.projector = torch.nn.Linear(24, 24)

    def forward(self, x: Tensor, *probes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        needs = self.method.needs_at(x.shape[0], self.budget)
        projected = self.method.space == "projected"
        vision, x = x, self.projector(x) if projected else x
        features = Features(x, self.grid, dict(zip(needs, probes, strict=True)), vision)
        plan = self.method.compress(features, self.budget)
        tokens = plan.apply(features.rows())
        return tokens if projected else self.projector(tokens), plan.indices, plan.sizes


def freeze(stage: Compress, features: Features) -> onnx.ModelProto:
    probes = tuple(features.probes.values())
    program = torch.onnx.export(
        stage.eval(),
        (features.x, *probes),
        dynamo=True,
        opset_version=20,
        input_names=[names.FEATURES, *features.probes],
        output_names=[names.VISUAL_TOKENS, names.KEPT, names.SIZES],
    )
    assert program is not None
    buffer = io.BytesIO()
    program.save(buffer)
    return onnx.load_from_string(buffer.getvalue())


def require_static(model: onnx.ModelProto) -> None:
    assert not {node.op_type for node in model.graph.node} & DYNAMIC_OPS
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    for value in [*inferred.input, *inferred.output, *inferred.value_info]:
        dims = value.type.tensor_type.shape.dim
        assert all(dim.HasField("dim_value") for dim in dims), value.name


def nearest_budget(method: Method, grid: tuple[int, int], k: int) -> int:
    possible = [b for b in method.budgets(grid[0] * grid[1], grid) if b < grid[0] * grid[1]]
    return min(possible, key=lambda budget: abs(budget - k))


@pytest.mark.parametrize(("grid", "k"), QUICK)
@every_method
def test_onnx_runtime_returns_what_torch_does(
    method: Method, grid: Any, k: int, features_of: Any, cases: tuple[str, ...]
) -> None:
    compare(method, grid, nearest_budget(method, grid, k), features_of, cases)


@pytest.mark.slow
@pytest.mark.parametrize(("grid", "k"), SLOW)
@every_method
def test_onnx_runtime_returns_what_torch_does_at_other_budgets(
    method: Method, grid: Any, k: int, features_of: Any, cases: tuple[str, ...]
) -> None:
    compare(method, grid, nearest_budget(method, grid, k), features_of, cases)


@pytest.mark.parametrize(
    "method", [METHODS["visionzip"], METHODS["divprune"]], ids=["visionzip", "divprune"]
)
def test_all_tokens_need_nothing(method: Method, features_of: Any, cases: tuple[str, ...]) -> None:
    compare(method, (10, 10), 100, features_of, cases)


def compare(method: Method, grid: Any, k: int, features_of: Any, cases: tuple[str, ...]) -> None:
    stage, n = Compress(method, grid, k), grid[0] * grid[1]
    needs = method.needs_at(n, k)
    ordered = {name: features_of("random", grid).probe(name) for name in needs}
    model = freeze(stage, Features(features_of("random", grid).x, grid, ordered))
    require_static(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for case in cases:
        features = features_of(case, grid)
        inputs = {names.FEATURES: features.x, **{name: features.probe(name) for name in needs}}
        with torch.no_grad():
            tokens, kept, sizes = (t.numpy() for t in stage(*inputs.values()))
        frozen = session.run(None, {name: t.numpy() for name, t in inputs.items()})
        np.testing.assert_array_equal(frozen[1], kept, err_msg=case)
        np.testing.assert_allclose(frozen[2], sizes, rtol=1e-5, err_msg=case)
        # Relative to the largest: sums in another order differ by a few of its last bits.
        scale = max(1.0, float(np.abs(tokens).max()))
        np.testing.assert_allclose(frozen[0], tokens, rtol=0, atol=1e-5 * scale, err_msg=case)
