"""Plans act as their matrices do, compose, and give tokens back to the rows they stand for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgetok.tokens import Plan

N, D = 12, 5


def rows(n: int = N) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(n))


@st.composite
def gathers(draw: st.DrawFn, n: int = N) -> Plan:
    kept = draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n, unique=True))
    return Plan.gather(torch.tensor(sorted(kept)), n)


@st.composite
def merges(draw: st.DrawFn, n: int = N) -> Plan:
    """Every row in exactly one group, no group empty; each token the mean of its group."""
    k = draw(st.integers(1, n))
    group_of = [*range(k), *draw(st.lists(st.integers(0, k - 1), min_size=n - k, max_size=n - k))]
    weights = torch.zeros(k, n)
    for row, group in enumerate(group_of):
        weights[group, row] = 1 / group_of.count(group)
    return Plan.mix(weights, torch.arange(k))


def plans(n: int = N) -> st.SearchStrategy[Plan]:
    return st.one_of(gathers(n), merges(n), st.just(Plan.identity(n)))


@given(plans())
def test_a_plan_does_what_its_matrix_does(plan: Plan) -> None:
    torch.testing.assert_close(plan.apply(rows()), plan.matrix() @ rows())


def test_the_identity_returns_the_very_same_tensor() -> None:
    x, plan = rows(), Plan.identity(N)
    assert plan.apply(x) is x
    assert plan.unmerge(x) is x
    assert plan.indices.tolist() == list(range(N))
    assert plan.sizes.tolist() == [1.0] * N


@given(gathers())
def test_a_gather_keeps_rows_and_gives_zeros_back_for_the_others(plan: Plan) -> None:
    back = plan.unmerge(plan.apply(rows()))
    for row in range(N):
        kept = row in plan.indices.tolist()
        assert torch.equal(back[row], rows()[row] if kept else torch.zeros(D))


@given(merges())
def test_sizes_of_a_merge_count_its_rows(plan: Plan) -> None:
    expected = [float((row > 0).sum()) for row in plan.matrix()]
    assert plan.sizes.tolist() == expected
    assert sum(expected) == N


@given(merges())
def test_unmerge_copies_a_token_to_each_row_of_its_group(plan: Plan) -> None:
    tokens = plan.apply(rows())
    back = plan.unmerge(tokens)
    for group, weights in enumerate(plan.matrix()):
        for row in weights.nonzero()[:, 0].tolist():
            torch.testing.assert_close(back[row], tokens[group])


@settings(deadline=None)
@given(st.data())
def test_composition_is_one_plan_after_the_other(data: st.DataObject) -> None:
    first = data.draw(plans())
    later = data.draw(plans(first.indices.shape[0]))
    both = first.compose(later)
    torch.testing.assert_close(both.apply(rows()), later.apply(first.apply(rows())))
    torch.testing.assert_close(both.matrix(), later.matrix() @ first.matrix())
    assert both.indices.tolist() == [first.indices.tolist()[i] for i in later.indices.tolist()]
    if later.weights is not None:  # a merge loses no row
        torch.testing.assert_close(both.sizes.sum(), first.sizes.sum())


def test_a_mixture_without_a_centre_stays_one_when_composed() -> None:
    pooled = Plan.mix(torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]))
    both = Plan.gather(torch.tensor([1, 4, 7]), N).compose(pooled)
    assert both.indices.tolist() == [-1, -1]
    assert both.sizes.tolist() == [2.0, 1.0]


def test_the_cls_row_is_the_last_row_with_index_minus_one() -> None:
    x = rows(N + 1)
    plan = Plan.cls_row(N).concat(Plan.gather(torch.tensor([3, 8]), N))
    assert torch.equal(plan.apply(x), x[[N, 3, 8]])
    assert plan.indices.tolist() == [-1, 3, 8]
    assert plan.unmerge(plan.apply(x)).shape == x.shape


def test_a_plan_without_cls_ignores_the_cls_row() -> None:
    x = rows(N + 1)
    assert torch.equal(Plan.identity(N).apply(x), x[:N])
    weights = torch.full((1, N), 1 / N)
    torch.testing.assert_close(Plan.mix(weights).apply(x), x[:N].mean(0, keepdim=True))


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=f"reads {N + 1} rows, but got {N}"):
        Plan.cls_row(N).apply(rows(N))
    with pytest.raises(ValueError, match="7 rows cannot follow"):
        Plan.identity(N).compose(Plan.identity(7))
