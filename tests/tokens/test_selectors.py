"""Selectors against sorting in plain Python, eager and in ONNX Runtime, on scores full of ties."""

from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgetok import tokens

N, K = 40, 13

# Few distinct values, so that the K-th place is nearly always tied; both zeros, large and tiny.
tied_scores = st.lists(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-30, 3.5e8, -2.5, 1 / 576]), min_size=N, max_size=N
)
masks = st.lists(st.booleans(), min_size=N, max_size=N)


def highest(scores: list[float], k: int) -> list[int]:
    return sorted(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k])


class Selectors(torch.nn.Module):
    def forward(self, scores: Tensor, forced: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kept = tokens.topk(scores, K)
        return kept, tokens.complement(kept, N), tokens.forced_topk(scores, forced, K)


@pytest.fixture(scope="module")
def session() -> ort.InferenceSession:
    inputs = (torch.rand(N), torch.zeros(N, dtype=torch.bool))
    program = torch.onnx.export(
        Selectors().eval(), inputs, dynamo=True, opset_version=20, input_names=["scores", "forced"]
    )
    assert program is not None
    buffer = io.BytesIO()
    program.save(buffer)
    return ort.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])


@settings(deadline=None)
@given(tied_scores, masks)
def test_torch_and_onnx_runtime_select_as_sorting_does(
    session: Any, scores: list[float], mask: list[bool]
) -> None:
    values = np.array(scores, np.float32)
    kept = highest(values.tolist(), K)
    first_forced = [1e9 if m else s for s, m in zip(values.tolist(), mask, strict=True)]
    expected = [kept, sorted(set(range(N)) - set(kept)), highest(first_forced, K)]
    eager = Selectors()(torch.tensor(values), torch.tensor(mask))
    frozen = session.run(None, {"scores": values, "forced": np.array(mask)})
    assert [t.tolist() for t in eager] == expected
    assert [t.tolist() for t in frozen] == expected


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.data())
def test_any_number_of_scores_and_places(scores: list[int], data: st.DataObject) -> None:
    k = data.draw(st.integers(0, len(scores)))
    mask = tokens.topk_mask(torch.tensor(scores, dtype=torch.float32), k)
    assert mask.nonzero()[:, 0].tolist() == highest([float(s) for s in scores], k)
    assert tokens.raster_indices(mask, k).tolist() == highest([float(s) for s in scores], k)


def test_forced_entries_stay_even_when_their_scores_are_lowest() -> None:
    scores, forced = torch.tensor([5.0, -9.0, 4.0, 3.0]), torch.tensor([False, True, False, False])
    assert tokens.forced_topk(scores, forced, 2).tolist() == [0, 1]


def test_smaller_seeded_subsets_are_nested_and_seeds_differ() -> None:
    subsets = [set(tokens.seeded_subset(576, k, seed=7).tolist()) for k in (32, 64, 192, 576)]
    for smaller, larger in pairwise(subsets):
        assert smaller < larger
    assert subsets[-1] == set(range(576))
    assert tokens.seeded_subset(576, 64, seed=8).tolist() != sorted(subsets[1])


def test_a_seeded_subset_never_changes() -> None:
    # A bundle names its seed only: another subset would no longer be the one it was tested with.
    assert tokens.seeded_subset(100, 6, seed=0).tolist() == [2, 3, 11, 13, 20, 92]
