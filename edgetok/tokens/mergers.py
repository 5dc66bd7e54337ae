"""Mergers: mixing weights [K, N], one row per merged token."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgetok.tokens.plan import one_hot
from edgetok.tokens.scorers import unit_rows


def spread_anchors(candidates: Tensor, count: int) -> Tensor:
    """`count` of the candidates at even steps from the first: [R] -> [count], count <= R."""
    step = max(1, candidates.shape[0] // count)
    return candidates[: step * count : step]


def nearest_anchor(metric: Tensor, anchors: Tensor, members: Tensor) -> Tensor:
    """Assign each member to the anchor of highest cosine, ties to the earlier anchor.

    Args:
        metric: [N, H], compared by cosine.
        anchors: [C] int64.
        members: [N] bool, tokens to assign; anchors among them are left out.

    Returns:
        [C, N] float32, 1 where a token is a member of an anchor.
    """
    units = unit_rows(metric)
    # Products summed row by row, not a matrix product: its kernels may round equal rows
    # differently by their place in a tile, and duplicates would no longer tie.
    similarity = (units[anchors].unsqueeze(1) * units.unsqueeze(0)).sum(2)
    assigned = one_hot(similarity.argmax(0), anchors.shape[0]).T
    others = members & ~one_hot(anchors, metric.shape[0]).bool().any(0)
    return assigned * others.float()


def sum_plus_mean(anchors: Tensor, groups: Tensor) -> Tensor:
    """Anchor plus mean of its members: [C] int64, [C, N] -> weights [C, N].

    A sum, not an average: a token with members is about twice as long (VisionZip). The mean of
    no members is 0.
    """
    counts = groups.sum(1, keepdim=True).clamp(min=1)
    return one_hot(anchors, groups.shape[1]) + groups / counts


def mean(anchors: Tensor, groups: Tensor) -> Tensor:
    """Mean of an anchor and its members: [C] int64, [C, N] -> weights [C, N]."""
    group = one_hot(anchors, groups.shape[1]) + groups
    return group / group.sum(1, keepdim=True)


def area_pooling(grid: tuple[int, int], k: int) -> Tensor:
    """Average pooling to exactly `k` cells: a constant [k, rows * columns].

    The cells form the grid of the image's proportions that comes nearest to `k`: bands of equal
    height, each divided evenly. Where no such grid has `k` cells, some bands have one cell more
    than others. A patch on a border counts by the part of its area inside the cell.
    """
    rows, columns = grid
    bands = round(math.sqrt(k * rows / columns))
    bands = min(max(bands, math.ceil(k / columns), 1), rows, k)
    cells = [k * (band + 1) // bands - k * band // bands for band in range(bands)]
    vertical = _overlaps(rows, bands)
    weights = torch.cat(
        [torch.kron(vertical[i], _overlaps(columns, c)) for i, c in enumerate(cells)]
    )
    return (weights / weights.sum(1, keepdim=True)).float()


def _overlaps(n: int, parts: int) -> Tensor:
    """Length of unit i inside part p when n units are cut into equal parts: [parts, n] float64."""
    length = n / parts
    start = torch.arange(parts, dtype=torch.float64).unsqueeze(1) * length
    unit = torch.arange(n, dtype=torch.float64)
    inside = torch.minimum(start + length, unit + 1) - torch.maximum(start, unit)
    return inside.clamp(min=0)
