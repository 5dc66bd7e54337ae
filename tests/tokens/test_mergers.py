"""Mergers against loops, pooling against areas counted on a fine raster."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetok import tokens


@given(st.integers(1, 40), st.data())
def test_anchors_stand_at_even_steps(n: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, n))
    step = max(1, n // count)
    candidates = torch.arange(100, 100 + n)
    expected = [100 + i * step for i in range(count)]
    assert tokens.spread_anchors(candidates, count).tolist() == expected


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(-2, 2)] * 3), min_size=3, max_size=14), st.data())
def test_members_join_the_first_of_the_most_similar_anchors(
    vectors: list[tuple[int, ...]], data: st.DataObject
) -> None:
    n = len(vectors)
    anchors = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n, unique=True))
    members = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    groups = tokens.nearest_anchor(
        torch.tensor(vectors, dtype=torch.float32), torch.tensor(anchors), torch.tensor(members)
    )
    for i in range(n):
        column = groups[:, i].tolist()
        if i in anchors or not members[i]:
            assert column == [0.0] * len(anchors)
            continue
        cosines = [_cosine(vectors[i], vectors[a]) for a in anchors]
        joined = column.index(1.0)
        assert sum(column) == 1.0
        assert cosines[joined] == pytest.approx(max(cosines), abs=1e-6)
        same = [j for j, a in enumerate(anchors) if vectors[a] == vectors[anchors[joined]]]
        assert joined == same[0]  # duplicates tie exactly, and the first wins


def _cosine(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    lengths = math.sqrt(sum(v * v for v in a)) * math.sqrt(sum(v * v for v in b))
    return sum(v * w for v, w in zip(a, b, strict=True)) / lengths if lengths else 0.0


def test_sum_plus_mean_adds_and_mean_averages() -> None:
    anchors = torch.tensor([1, 3])
    groups = torch.tensor([[1.0, 0, 0, 0, 1.0], [0, 0, 0, 0, 0]])  # the second anchor is alone
    x = torch.tensor([[2.0], [10.0], [7.0], [5.0], [4.0]])
    added = tokens.sum_plus_mean(anchors, groups) @ x
    averaged = tokens.mean(anchors, groups) @ x
    assert added[:, 0].tolist() == [13.0, 5.0]
    torch.testing.assert_close(averaged[:, 0], torch.tensor([16 / 3, 5.0]))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_pooling_averages_and_loses_nothing(rows: int, columns: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, rows * columns))
    weights = tokens.area_pooling((rows, columns), k)
    assert weights.shape == (k, rows * columns)
    assert bool((weights >= 0).all())
    torch.testing.assert_close(weights.sum(1), torch.ones(k))
    assert bool((weights.sum(0) > 0).all())
    sizes = tokens.Plan.mix(weights).sizes
    torch.testing.assert_close(sizes.sum(), torch.tensor(float(rows * columns)))
    assert bool((sizes > 0).all())


def test_pooling_to_a_divisor_is_a_plain_average_over_blocks() -> None:
    x = torch.arange(36.0).reshape(1, 1, 6, 6)
    expected = torch.nn.functional.avg_pool2d(x, 2).reshape(9, 1)
    torch.testing.assert_close(tokens.area_pooling((6, 6), 9) @ x.reshape(36, 1), expected)


def test_pooling_weighs_by_area_on_uneven_borders() -> None:
    # 3 x 5 patches in 7 cells: two bands of 3 and 4 cells. Every patch is drawn as 24 x 24 points
    # (borders at 36, and at 40, 80 or 30, 60, 90 points), and the points of each cell are counted.
    bands, cells, fine = 2, [3, 4], 24
    expected = torch.zeros(7, 15)
    for y in range(3 * fine):
        band = y * bands // (3 * fine)
        for x in range(5 * fine):
            cell = sum(cells[:band]) + x * cells[band] // (5 * fine)
            expected[cell, (y // fine) * 5 + x // fine] += 1
    expected /= expected.sum(1, keepdim=True)
    torch.testing.assert_close(tokens.area_pooling((3, 5), 7), expected)


@pytest.mark.parametrize("k", [32, 64, 128, 192, 575])
def test_cells_of_a_square_image_stay_nearly_square(k: int) -> None:
    area = 1 / tokens.area_pooling((24, 24), k).square().sum(1)  # patches per cell, if uniform
    assert area.max() / area.min() < 2.3
