"""Each method against its procedure in plain Python (`loops.py`, `merging_loops.py`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgetok.methods import METHODS, find_method

BUDGETS = (2, 7, 37, 64, 99)
GRIDS_AND_BUDGETS = [((10, 10), k) for k in BUDGETS] + [((8, 12), 48), ((24, 24), 64)]
WITH_LOOPS = [name for name in METHODS if name != "pool"]  # pool has its own test below


def check(name: str, grid: Any, k: int, case: str, features_of: Any, references: Any) -> None:
    method = find_method(name)
    n = grid[0] * grid[1]
    k = min((b for b in method.budgets(n, grid) if b < n), key=lambda b: abs(b - k))
    features = features_of(case, grid, method.needs)
    plan = method.compress(features, k)
    rows, indices, sizes = references[name](features, k)
    assert plan.indices.tolist() == indices
    np.testing.assert_allclose(plan.sizes, sizes, rtol=1e-5)
    scale = max(1.0, float(np.abs(rows).max()))
    np.testing.assert_allclose(plan.apply(features.rows()), rows, rtol=0, atol=2e-6 * scale)


@pytest.mark.parametrize(("grid", "k"), [((10, 10), 37), ((8, 12), 64)])
@pytest.mark.parametrize("name", WITH_LOOPS)
def test_tokens_indices_and_sizes_are_those_of_the_reference(
    name: str, grid: Any, k: int, case: str, features_of: Any, references: Any
) -> None:
    check(name, grid, k, case, features_of, references)


@pytest.mark.slow
@pytest.mark.parametrize(("grid", "k"), [*GRIDS_AND_BUDGETS, ((24, 24), 192)])
@pytest.mark.parametrize("name", WITH_LOOPS)
def test_so_are_they_at_other_budgets(
    name: str, grid: Any, k: int, case: str, features_of: Any, references: Any
) -> None:
    check(name, grid, k, case, features_of, references)


@pytest.mark.parametrize(("grid", "k"), GRIDS_AND_BUDGETS)
def test_pool_averages_cells_of_equal_area_per_band(grid: Any, k: int, features_of: Any) -> None:
    # Cells by integration in whole units: every patch is cut so finely that all borders are hit.
    rows, columns = grid
    bands = min(max(round((k * rows / columns) ** 0.5), -(-k // columns)), rows, k)
    x = np.asarray(features_of("random", grid).x).reshape(rows, columns, -1)
    expected = []
    for band in range(bands):
        cells = k * (band + 1) // bands - k * band // bands
        tall = lengths_inside(band, bands, rows)
        for cell in range(cells):
            area = np.outer(tall, lengths_inside(cell, cells, columns))
            expected.append((x * area[:, :, None]).sum((0, 1)) / area.sum())
    features = features_of("random", grid, ())
    plan = find_method("pool").compress(features, k)
    np.testing.assert_allclose(plan.apply(features.rows()), expected, rtol=1e-5, atol=1e-5)
    assert plan.indices.tolist() == [-1] * k
    assert plan.sizes.sum().item() == pytest.approx(rows * columns, rel=1e-5)


def lengths_inside(part: int, parts: int, units: int) -> list[int]:
    """In units of 1/parts: how much of each unit lies in this part of the whole length."""
    points = range(part * units, (part + 1) * units)
    return [sum(point // parts == unit for point in points) for unit in range(units)]
