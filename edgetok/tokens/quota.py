"""Quotas: how many tokens each part of the image may keep, decided by the image."""

from __future__ import annotations

import torch
from torch import Tensor

from edgetok.tokens.plan import one_hot
from edgetok.tokens.selectors import forced_topk, ranks

SMALLEST_TOTAL = 1e-12  # weights that are all zero give quotas of zero, and the best fill up


def cells(grid: tuple[int, int], parts: tuple[int, int]) -> Tensor:
    """The cell of each patch when the grid is cut into `parts`, a constant: [N] int64."""
    (rows, columns), (down, across) = grid, parts
    row = torch.arange(rows) * down // rows
    column = torch.arange(columns) * across // columns
    return (row.unsqueeze(1) * across + column).flatten()


def quotas(weights: Tensor, k: int) -> Tensor:
    """Whole numbers in proportion to `weights`, of sum `k`: [G] -> [G] float32 (R5).

    What rounding down leaves goes to the largest remainders, one each, ties to the lower index.
    """
    scaled, total = weights * k, weights.sum().clamp(min=SMALLEST_TOTAL)
    whole = (scaled / total).floor()
    # Not the fraction of the quotient: of counts, this remainder is exact and so are its ties.
    remainder = scaled - whole * total
    return whole + (ranks(remainder) < k - whole.sum()).float()


def quota_topk(scores: Tensor, groups: Tensor, counts: Tensor, k: int) -> Tensor:
    """The `counts[g]` best of each group, then the best of the others: -> [k] int64 (R4).

    A quota beyond its group's size needs no special case: the places go to the best anywhere.

    Args:
        scores: [N].
        groups: [N] int64 in 0..G-1.
        counts: [G] float32, of sum `k` or less.
    """
    rank = ranks(scores, comparable=groups.unsqueeze(0) == groups.unsqueeze(1))
    allowed = (one_hot(groups, counts.shape[0]) * counts).sum(1)
    return forced_topk(scores, rank < allowed, k)
