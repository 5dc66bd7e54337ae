"""The elbow against its definition in plain Python, and its frozen form."""

from __future__ import annotations

import io
import math

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edgetok import tokens


def elbow_by_geometry(values: list[float]) -> int:
    """Distance of each point of the sorted curve from the chord, by the cross product."""
    curve = sorted(values, reverse=True)
    last = len(curve) - 1
    distances = [
        abs(last * (y - curve[0]) - x * (curve[-1] - curve[0])) for x, y in enumerate(curve)
    ]
    return distances.index(max(distances)) + 1


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=60))
def test_the_elbow_is_the_first_point_farthest_from_the_chord(values: list[int]) -> None:
    found = tokens.elbow(torch.tensor(values, dtype=torch.float32))
    assert found.shape == (1,)
    assert found.dtype == torch.float32
    assert found.item() == elbow_by_geometry([float(v) for v in values])


def test_a_step_bends_at_its_edge() -> None:
    scores = torch.cat([torch.full((40,), 0.9), torch.full((160,), 0.1)])
    assert tokens.elbow(scores[torch.randperm(200)]).item() == 41


def test_effective_count_of_uniform_and_single_attention() -> None:
    assert tokens.effective_count(torch.full((64,), 1 / 64)).item() == pytest.approx(64, rel=1e-4)
    assert tokens.effective_count(torch.eye(64)[3]).item() == pytest.approx(1, rel=1e-4)
    half = torch.tensor([0.5, 0.5, 0, 0])
    assert tokens.effective_count(half).item() == pytest.approx(2, rel=1e-4)


def test_rank_counts_directions_that_vary_alike() -> None:
    """By eigenvalues: (sum l)^2 / sum l^2."""
    generator = torch.Generator().manual_seed(1)
    for shape in ((30, 8), (8, 30)):
        x = torch.randn(shape, generator=generator) * torch.linspace(0.1, 3, shape[1])
        values = np.linalg.eigvalsh(np.cov(x.numpy().T.astype(np.float64)))
        expected = values.sum() ** 2 / (values**2).sum()
        assert tokens.participation_rank(x).item() == pytest.approx(expected, rel=1e-3)
    assert tokens.participation_rank(torch.ones(9, 4)).item() == pytest.approx(1.0)


def test_edges_are_steps_between_neighbours() -> None:
    grey = torch.zeros(1, 3, 16, 16)
    assert tokens.edge_density(grey).item() == 0
    grey[:, :, :, 8:] = 2.0  # one step of 2 among three across, none down
    assert tokens.edge_density(grey).item() == pytest.approx(2 / 3)
    assert tokens.edge_density(grey.transpose(2, 3)).item() == pytest.approx(2 / 3)


def test_cls_similarity_is_the_cosine_and_zero_vectors_have_none() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-8.0, 6.0], [1e-3, 0.0]])
    found = tokens.cls_similarity(x, torch.tensor([[2.0, 0.0]]))
    expected = torch.tensor([0.6, 0.0, -0.8, 1.0])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(tokens.cosine(x, torch.tensor([[2.0, 0.0]]))[:, 0], expected)


class Signals(torch.nn.Module):
    def forward(self, x: Tensor, cls_feature: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
        return tokens.elbow_tokens(x, cls_feature), tokens.effective_count(attention)


def test_signals_freeze() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(100, 16, generator=generator)
    inputs = (x, x[:1] + 0.5, torch.rand(100, generator=generator).softmax(0))
    program = torch.onnx.export(Signals().eval(), inputs, dynamo=True, opset_version=20)
    assert program is not None
    buffer = io.BytesIO()
    program.save(buffer)
    session = ort.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    frozen = session.run(None, {n: t.numpy() for n, t in zip(names, inputs, strict=True)})
    cosines = [_cosine(row, inputs[1][0].tolist()) for row in x.tolist()]
    assert frozen[0].tolist() == [float(elbow_by_geometry(cosines))]
    np.testing.assert_allclose(frozen[1], Signals()(*inputs)[1].numpy(), rtol=1e-5)


def _cosine(a: list[float], b: list[float]) -> float:
    return sum(v * w for v, w in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))
