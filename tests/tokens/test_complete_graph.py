"""Merging over the complete graph, and even steps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetok.tokens import merge_complete, spread_indices


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 40), part=st.floats(0, 1), seed=st.integers(0, 99))
def test_every_row_goes_into_one_token(n: int, part: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    metric, importance = torch.randn(n, 6, generator=generator), torch.rand(n, generator=generator)
    r = int(part * (n // 2))
    plan = merge_complete(metric, importance, r)
    assert plan.indices.shape == (n - r,)
    assert plan.indices.tolist() == sorted(plan.indices.tolist())
    assert plan.sizes.sum().item() == n
    assert plan.weights is not None
    assert ((plan.weights > 0).sum(0) == 1).all() and (plan.weights >= 0).all()


def test_the_nearest_and_least_important_goes() -> None:
    metric = torch.tensor([[1.0, 0.0], [0.99, 0.1], [0.0, 1.0], [0.1, 0.99], [-1.0, 0.2]])
    importance = torch.tensor([0.1, 0.2, 0.9, 0.8, 0.5])
    plan = merge_complete(metric, importance, 1)
    assert plan.indices.tolist() == [1, 2, 3, 4]
    pair = torch.softmax(importance[:2], 0)
    assert plan.weights is not None
    torch.testing.assert_close(plan.weights[0, :2], pair)


def test_sizes_weigh_the_pair() -> None:
    metric, importance = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), torch.zeros(3)
    plan = merge_complete(metric, importance, 1, sizes=torch.tensor([3.0, 1.0, 1.0]))
    assert plan.weights is not None
    torch.testing.assert_close(plan.weights[0], torch.tensor([0.75, 0.25, 0.0]))


def test_a_weight_is_never_negative() -> None:
    """Nine sources that matter far more than the one that they resemble."""
    metric = torch.ones(20, 3)
    importance = torch.cat([torch.ones(10) * 0.9, torch.zeros(1), torch.ones(9)])
    plan = merge_complete(metric, importance, 10)
    assert plan.weights is not None and (plan.weights >= 0).all()
    assert plan.sizes.sum().item() == 20


@pytest.mark.parametrize(("n", "k"), [(576, 400), (576, 64), (16, 16), (7, 3), (5, 1)])
def test_even_steps_reach_over_the_whole_raster(n: int, k: int) -> None:
    indices = spread_indices(n, k).tolist()
    steps = {b - a for a, b in zip([*indices, n], [*indices[1:], n], strict=False) if b > a}
    assert indices[0] == 0 and len(set(indices)) == k
    assert max(steps, default=1) - min(steps, default=1) <= 1
    assert n - indices[-1] <= -(-n // k)
