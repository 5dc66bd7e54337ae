"""Greedy choices against exhaustive loops, and what makes similarity safe to compare."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetok import tokens

quarters = st.integers(0, 4).map(lambda value: value / 4)


@settings(deadline=None)
@given(
    st.integers(3, 9).flatmap(
        lambda n: st.lists(st.lists(quarters, min_size=n, max_size=n), min_size=1, max_size=6)
    ),
    st.data(),
)
def test_coverage_takes_what_serves_best(gains: list[list[float]], data: st.DataObject) -> None:
    n = len(gains[0])
    k = data.draw(st.integers(1, n))
    bonus = data.draw(st.lists(quarters, min_size=n, max_size=n))
    taken: list[int] = []
    for _ in range(k):
        served = [max((row[j] for j in taken), default=0.0) for row in gains]

        def added(i: int, served: list[float] = served) -> float:
            more = (max(0.0, row[i] - s) for row, s in zip(gains, served, strict=True))
            return sum(more) + bonus[i]

        taken.append(max((i for i in range(n) if i not in taken), key=lambda i: (added(i), -i)))
    found = tokens.coverage(torch.tensor(gains), torch.tensor(bonus), k)
    assert found.tolist() == sorted(taken)


def test_the_farthest_are_the_ends_of_a_fan() -> None:
    angles = torch.linspace(0, 3, 7)  # radians: the cosine falls with the angle between
    x = torch.stack([angles.cos(), angles.sin()], 1)
    similar = tokens.similarity(x, x)
    assert tokens.farthest(similar, 3).tolist() == [0, 3, 6]
    assert set(tokens.max_sum(similar, torch.tensor([0]), 2).tolist()) == {0, 6}


@pytest.mark.parametrize("width", [24, 1024])
def test_equal_rows_are_equally_similar_wherever_they_stand(width: int) -> None:
    rows = torch.randn(4, width, generator=torch.Generator().manual_seed(width))
    which = torch.randint(0, 4, (301,), generator=torch.Generator().manual_seed(1))
    x = rows[which]
    expected = tokens.similarity(rows, rows)[which][:, which]
    assert torch.equal(tokens.similarity(x, x), expected)


def test_similarity_is_within_a_step_of_the_cosine() -> None:
    x = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    exact = torch.nn.functional.cosine_similarity(x[:, None].double(), x[None].double(), dim=-1)
    assert (tokens.similarity(x, x) - exact).abs().max() < 0.51 / 4096


def test_halving_drops_doubles_first() -> None:
    x = torch.tensor([[1.0, 0], [0, 1.0], [1.0, 0.01], [-1.0, 0]])
    ranked = torch.tensor([0, 2, 1, 3])  # 0 resembles 2, which follows it in the list
    kept = tokens.dedup_halving(tokens.similarity(x, x), ranked, keep=3, step=1)
    assert kept.tolist() == [1, 2, 3]


def test_clusters_without_members_keep_their_mean() -> None:
    x = torch.tensor([[1.0, 0], [1.0, 0], [1.0, 0], [0, 1.0]])
    members = torch.tensor([True, True, True, False])
    weights = tokens.kmeans(x, torch.tensor([1.0, 2.0, 1.0, 5.0]), members, torch.tensor([0, 1]), 2)
    assert weights.tolist() == [[0.25, 0.5, 0.25, 0.0], [0.0, 1.0, 0.0, 0.0]]


def test_bipartite_merges_the_most_similar_and_orders_what_stays() -> None:
    x = torch.tensor([[1.0, 0], [1.0, 0.1], [0, 1.0], [1.0, 1.0], [-1.0, 0], [0.2, 1.0]])
    plan = tokens.bipartite(x, 1)  # even 0 joins odd 1, 2 resembles 5 next most, 4 nothing
    assert plan.indices.tolist() == [2, 4, 1, 3, 5]
    assert plan.sizes.tolist() == [1, 1, 2, 1, 1]
    torch.testing.assert_close(plan.apply(x)[2], torch.tensor([1.0, 0.05]))
    kept_back = tokens.bipartite(x, 1, penalty=torch.tensor([1.0, 0, 0, 0, 0, 0]))
    assert kept_back.sizes.tolist() == [1, 1, 1, 1, 2]  # 2 joins 5 instead
    weighed = tokens.bipartite(x, 1, sizes=torch.tensor([3.0, 1, 1, 1, 1, 1]))
    torch.testing.assert_close(weighed.apply(x)[2], torch.tensor([1.0, 0.025]))
