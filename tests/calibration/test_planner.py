"""G-Search and P-Sigmoid against exhaustive search, and what must hold of every plan."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetok.calibration.planner import (
    DecoderShape,
    Keep,
    fit_sigmoid,
    flatten,
    search_greedily,
)
from edgetok.errors import UsageError

SHAPE = DecoderShape(hidden=64, heads=4, kv_heads=2, head_dim=16, mlp=128, text_rows=20)


def falls(keep: Keep) -> bool:
    return all(high >= low for high, low in pairwise(keep))


def needing(wanted: Keep):
    """A metric that is 1 while every layer sees what it needs, and falls with what is missing."""

    def metric(keep: Keep) -> float:
        missing = sum(max(0, need - count) for need, count in zip(wanted, keep, strict=True))
        return 1.0 - missing / 1000

    return metric


@given(st.lists(st.integers(0, 100), min_size=5, max_size=5))
def test_greedy_search_finds_what_each_layer_needs(needs: list[int]) -> None:
    wanted = tuple(sorted(needs, reverse=True))
    keep = search_greedily(100, 5, needing(wanted), grid=range(101), tolerance=0)
    assert keep == (100, *wanted[1:])


@given(st.lists(st.sampled_from([0, 10, 40, 100]), min_size=4, max_size=4))
def test_greedy_search_is_the_cheapest_plan_that_holds(needs: list[int]) -> None:
    """Where the metric wants a count per layer, no plan on the grid is cheaper and as good."""
    grid, wanted = (0, 10, 40, 100), tuple(sorted(needs, reverse=True))
    metric = needing(wanted)
    found = search_greedily(100, 4, metric, grid=grid, tolerance=0)
    every = [(100, *rest) for rest in product(grid, repeat=3) if falls((100, *rest))]
    best = min((keep for keep in every if metric(keep) >= 1.0), key=SHAPE.flops)
    assert SHAPE.flops(found) == SHAPE.flops(best)


def test_a_tolerance_buys_fewer_tokens() -> None:
    metric = needing((100, 80, 60, 40))
    strict = search_greedily(100, 4, metric, grid=range(0, 101, 20), tolerance=0)
    loose = search_greedily(100, 4, metric, grid=range(0, 101, 20), tolerance=0.05)
    assert strict == (100, 80, 60, 40)
    assert sum(loose) < sum(strict)
    assert metric(loose) >= 0.95


@given(
    share=st.floats(0.05, 1.2),
    layers=st.integers(2, 32),
    full=st.integers(1, 600),
    slope=st.sampled_from([0.2, 1.0, 5.0]),
)
def test_sigmoids_fall_and_stay_within_the_budget(
    share: float, layers: int, full: int, slope: float
) -> None:
    fewest, most = (full, *[0] * (layers - 1)), (full,) * layers
    budget = SHAPE.flops(fewest) + share * (SHAPE.flops(most) - SHAPE.flops(fewest))
    keep = fit_sigmoid(full, layers, lambda _: 0.0, SHAPE.flops, budget, slopes=[slope])
    assert len(keep) == layers
    assert keep[0] == full
    assert falls(keep)
    assert SHAPE.flops(keep) <= budget
    if share >= 1:
        assert sum(most) - sum(keep) <= layers  # all but what rounding down takes


def test_sigmoids_spend_what_they_may() -> None:
    fewest, most = (576, *[0] * 7), (576,) * 8
    budget = (SHAPE.flops(fewest) + SHAPE.flops(most)) / 2
    keep = fit_sigmoid(576, 8, lambda _: 0.0, SHAPE.flops, budget, slopes=[1.0])
    assert SHAPE.flops(keep) >= 0.98 * budget


def test_the_best_steepness_is_chosen() -> None:
    budget = SHAPE.flops((100, 100, 100, 100, 0, 0, 0, 0))
    early = needing((100, 100, 100, 90, 0, 0, 0, 0))
    late = needing((100, 50, 50, 50, 40, 30, 30, 30))
    steep = fit_sigmoid(100, 8, early, SHAPE.flops, budget)
    gentle = fit_sigmoid(100, 8, late, SHAPE.flops, budget)
    assert early(steep) > early(gentle)
    assert late(gentle) > late(steep)


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=12),
    st.integers(1, 5),
)
def test_flattened_plans_never_keep_less(counts: list[int], plateaus: int) -> None:
    keep = tuple(sorted(counts, reverse=True))
    flat = flatten(keep, plateaus)
    assert len(flat) == len(keep)
    assert falls(flat)
    assert len(set(flat)) == min(plateaus, len(set(keep)))
    assert all(got >= want for got, want in zip(flat, keep, strict=True))


def test_flops_are_those_of_the_products() -> None:
    """Counted product by product for one layer of 3 + 20 rows."""
    n = 23
    projections = n * 64 * (64 + 32 + 32) + n * 64 * 64
    mlp = 3 * n * 64 * 128
    attention = 2 * 4 * n * n * 16 / 2
    assert SHAPE.flops((3,)) == 2 * (projections + mlp + attention)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grid": []}, "no counts to choose from"),
        ({"grid": [101]}, r"101 visual tokens are outside 0\.\.100"),
        ({"grid": [-1]}, r"-1 visual tokens are outside"),
        ({"grid": [5], "tolerance": 1.0}, "tolerance 1.0 is outside"),
        ({"grid": [5], "tolerance": float("nan")}, "tolerance nan is outside"),
    ],
)
def test_wrong_searches_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        search_greedily(100, 4, lambda _: 1.0, **arguments)


def test_an_impossible_budget_is_refused() -> None:
    with pytest.raises(UsageError, match=r"is below .* cost already; raise it"):
        fit_sigmoid(100, 4, lambda _: 1.0, SHAPE.flops, 1.0)
    with pytest.raises(UsageError, match="a decoder of 0 layers"):
        fit_sigmoid(100, 0, lambda _: 1.0, SHAPE.flops, 1e9)
