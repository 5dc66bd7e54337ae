"""Each method against its paper's procedure in plain Python and NumPy, with none of the core."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgetok.methods import find_method

Array = NDArray[np.float64]
Result = tuple[Array, list[int], list[float]]  # tokens [K, V], source indices [K], sizes [K]
GRIDS_AND_BUDGETS = [((10, 10), k) for k in (2, 7, 37, 64, 99)] + [((8, 12), 48), ((24, 24), 64)]


def highest(scores: Any, k: int) -> list[int]:
    order = sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))
    return sorted(order[:k])


def fastervlm(features: Any, k: int) -> Result:
    kept = highest(features.cls_attention, k)
    return array(features.x)[kept], kept, [1.0] * k


def visionzip(features: Any, k: int) -> Result:
    x, keys = array(features.x), array(features.keys)
    contextual = max(1, round(10 * k / 64))
    dominant = highest(features.cls_attention, k - contextual - 1)
    rest = [i for i in range(len(x)) if i not in dominant]
    step = max(1, len(rest) // contextual)
    centres = [rest[j * step] for j in range(contextual)]
    members: dict[int, list[int]] = {centre: [] for centre in centres}
    for i in rest:
        if i not in centres:
            members[max(centres, key=lambda c: (cosine(keys[i], keys[c]), -c))].append(i)
    rows = [array(features.cls_feature)[0], *x[dominant]]
    for centre in centres:
        joined = members[centre]
        rows.append(x[centre] + (x[joined].mean(0) if joined else 0.0))
    sizes = [1.0] * (k - contextual) + [1.0 + len(members[c]) for c in centres]
    return np.stack(rows), [-1, *dominant, *centres], sizes


def random(features: Any, k: int) -> Result:
    raw = np.random.PCG64(0).random_raw(len(features.x))
    kept = sorted(sorted(range(len(raw)), key=lambda i: int(raw[i]))[:k])
    return array(features.x)[kept], kept, [1.0] * k


def array(tensor: Any) -> Array:
    return np.asarray(tensor.tolist(), np.float64)


def cosine(a: Array, b: Array) -> float:
    lengths = float(np.sqrt((a * a).sum())) * float(np.sqrt((b * b).sum()))
    return round(float((a * b).sum()) / lengths, 12) if lengths else 0.0


@pytest.mark.parametrize(("grid", "k"), GRIDS_AND_BUDGETS)
@pytest.mark.parametrize("reference", [fastervlm, visionzip, random])
def test_tokens_indices_and_sizes_are_those_of_the_reference(
    reference: Callable[[Any, int], Result], grid: Any, k: int, case: str, features_of: Any
) -> None:
    method = find_method(reference.__name__)
    features = features_of(case, grid, method.needs)
    plan = method.compress(features, k)
    rows, indices, sizes = reference(features, k)
    assert plan.indices.tolist() == indices
    assert plan.sizes.tolist() == sizes
    np.testing.assert_allclose(plan.apply(features.rows()), rows, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("grid", "k"), GRIDS_AND_BUDGETS)
def test_pool_averages_cells_of_equal_area_per_band(grid: Any, k: int, features_of: Any) -> None:
    # Cells by integration in whole units: every patch is cut so finely that all borders are hit.
    rows, columns = grid
    bands = min(max(round((k * rows / columns) ** 0.5), -(-k // columns)), rows, k)
    x = array(features_of("random", grid).x).reshape(rows, columns, -1)
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
