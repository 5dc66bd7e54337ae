"""Mergers: mixing weights [K, N], one row per merged token."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
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
    similarity = (units.index_select(0, anchors).unsqueeze(1) * units.unsqueeze(0)).sum(2)
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


def mean(anchors: Tensor, groups: Tensor, sizes: Tensor | None = None) -> Tensor:
    """Mean of an anchor and its members: [C] int64, [C, N] -> weights [C, N].

    `sizes` [N] weighs them by what each stands for.
    """
    group = one_hot(anchors, groups.shape[1]) + groups
    group = group if sizes is None else group * sizes
    return group / group.sum(1, keepdim=True)


def cell_means(members: Tensor, weight: Tensor, cells: Tensor, count: int) -> Tensor:
    """Mean of the members of each cell by `weight`: -> weights [count, N].

    members [N] bool, weight [N] positive, cells [N] int64; each cell has a member.
    """
    groups = one_hot(cells, count).T * (weight * members.float())
    return groups / groups.sum(1, keepdim=True)


def area_pooling(grid: tuple[int, int], k: int) -> Tensor:
    """Average pooling to exactly `k` cells: a constant [k, rows * columns].

    The cells form the grid of the image's proportions that comes nearest to `k`: bands of equal
    height, each divided evenly. Where no such grid has `k` cells, some bands have one cell more
    than others. A patch on a border counts by the part of its area inside the cell.
    """
    rows, columns = grid
    bands = round(math.sqrt(k * rows / columns))
    bands = min(max(bands, math.ceil(k / columns)), rows, k)
    cells = [k * (band + 1) // bands - k * band // bands for band in range(bands)]
    tall = np.repeat(_shares_of_length(rows, bands), cells, axis=0)
    wide = np.concatenate([_shares_of_length(columns, count) for count in cells])
    # Two narrow constants and their product: a graph need not store the [k, N] matrix.
    vertical, horizontal = (torch.from_numpy(m.astype(np.float32)) for m in (tall, wide))
    return (vertical.unsqueeze(2) * horizontal.unsqueeze(1)).reshape(k, rows * columns)


def _shares_of_length(n: int, parts: int) -> NDArray[np.float64]:
    """Row p: the share of each of n units in the p-th of equal parts; rows sum to 1: [parts, n]."""
    start = np.arange(parts)[:, None] * n / parts
    unit = np.arange(n)
    inside = np.minimum(start + n / parts, unit + 1) - np.maximum(start, unit)
    shares: NDArray[np.float64] = np.clip(inside, 0, None) * parts / n
    return shares
