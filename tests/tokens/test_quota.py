"""Quotas and the selections by groups, rows and neighbours, against counting by hand."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetok import tokens

few_values = st.integers(0, 4)


def ranked(scores: list[int]) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=9), st.integers(1, 200))
def test_quotas_are_in_proportion_and_sum_to_k(weights: list[int], k: int) -> None:
    found = tokens.quotas(torch.tensor(weights, dtype=torch.float32), k).tolist()
    total = sum(weights)
    if total == 0:
        # Nothing says where they belong: only the first places are given, one each.
        assert found == [1.0] * min(k, len(weights)) + [0.0] * (len(weights) - k)
        return
    shares = [Fraction(weight * k, total) for weight in weights]
    left = k - sum(share.numerator // share.denominator for share in shares)
    by_remainder = sorted(range(len(shares)), key=lambda g: (-(shares[g] % 1), g))
    expected = [share.numerator // share.denominator for share in shares]
    for g in by_remainder[:left]:
        expected[g] += 1
    assert found == expected
    assert sum(found) == k


@settings(deadline=None)
@given(st.lists(st.tuples(few_values, st.integers(0, 2)), min_size=4, max_size=20), st.data())
def test_each_group_gives_its_best_and_the_best_of_the_others_fill_up(
    rows: list[tuple[int, int]], data: st.DataObject
) -> None:
    scores, groups = [s for s, _ in rows], [g for _, g in rows]
    k = data.draw(st.integers(1, len(rows)))
    counts = data.draw(st.lists(st.integers(0, k), min_size=3, max_size=3))
    counts = [min(count, max(0, k - sum(counts[:g]))) for g, count in enumerate(counts)]
    kept: list[int] = []
    for g, count in enumerate(counts):
        kept += [i for i in ranked(scores) if groups[i] == g][:count]
    kept += [i for i in ranked(scores) if i not in kept][: k - len(kept)]
    found = tokens.quota_topk(
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(groups),
        torch.tensor(counts, dtype=torch.float32),
        k,
    )
    assert found.tolist() == sorted(kept)


@given(st.lists(few_values, min_size=1, max_size=25))
def test_order_and_ranks_are_those_of_a_stable_sort(scores: list[int]) -> None:
    values = torch.tensor(scores, dtype=torch.float32)
    assert tokens.order(values).tolist() == ranked(scores)
    assert tokens.order_on_grid(values / 8).tolist() == ranked(scores)
    assert [ranked(scores).index(i) for i in range(len(scores))] == tokens.ranks(values).tolist()


@pytest.mark.parametrize("parts", [(2, 2), (3, 2), (1, 1)])
def test_cells_cut_the_grid_evenly(parts: tuple[int, int]) -> None:
    cells = tokens.cells((6, 4), parts).reshape(6, 4)
    high, wide = 6 // parts[0], 4 // parts[1]
    for row in range(6):
        for column in range(4):
            assert cells[row, column] == row // high * parts[1] + column // wide


def test_whole_rows_of_the_grid_are_kept() -> None:
    scores = torch.tensor([0.1, 0.5, 0.5, 0.2])
    assert tokens.row_topk(scores, (4, 3), 6).tolist() == [3, 4, 5, 6, 7, 8]
    assert tokens.row_topk(scores, (4, 3), 3).tolist() == [3, 4, 5]


def test_rows_of_the_same_scores_in_another_order_tie() -> None:
    values = torch.rand(40, generator=torch.Generator().manual_seed(0))
    orders = [torch.randperm(40, generator=torch.Generator().manual_seed(i)) for i in range(30)]
    shuffled = torch.stack([values[order] for order in orders])
    assert len(set(tokens.band_scores(shuffled.flatten(), (30, 40)).tolist())) == 1


def test_a_plus_wraps_along_the_raster_and_ends_with_the_image() -> None:
    def marked(*centres: int) -> list[int]:
        return (
            tokens.plus_mask(torch.tensor(centres, dtype=torch.int64), (3, 4))
            .nonzero()[:, 0]
            .tolist()
        )

    assert marked(5) == [1, 4, 5, 6, 9]
    assert marked(4) == [0, 3, 4, 5, 8]  # left of row 1 lies the end of row 0
    assert marked(1) == [0, 1, 2, 5]  # above the first row is its first patch
    assert marked(11) == [7, 10, 11]
    assert marked() == []


def test_sinks_come_last_and_only_if_nothing_else_is_left() -> None:
    x = torch.ones(6, 3)
    x[2] = 100.0
    scores = torch.tensor([0.1, 0.2, 0.9, 0.3, 0.05, 0.0])
    spared = tokens.without_sinks(scores, x)
    assert tokens.order(spared).tolist() == [3, 1, 0, 4, 5, 2]
    assert torch.equal(tokens.without_sinks(scores, torch.zeros(6, 3)), scores)
