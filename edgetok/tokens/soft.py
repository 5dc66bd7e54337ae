"""Soft matchers: tokens that share their source rows, and the way back to all rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgetok.tokens.plan import Plan, one_hot
from edgetok.tokens.scorers import cosine, on_grid
from edgetok.tokens.selectors import BIG, topk_mask

SMALLEST_SUM = 1e-12


def soft_anchors(x: Tensor, anchors: Tensor, sizes: Tensor, temperature: float, reach: int) -> Plan:
    """Mix around anchors so that each row is divided among them: -> a plan of m tokens.

    Each anchor draws on its `reach` most similar rows, and each row goes at least to its nearest
    anchor. A row's sizes are divided as the row is, so that they keep their sum.

    Args:
        x: [n, V], compared by cosine.
        anchors: [m] int64.
        sizes: [n].
        temperature: of the softmax over cosines; small is nearly a choice.
    """
    likeness = cosine(x.index_select(0, anchors), x)  # [m, n]
    near = on_grid(likeness)  # to choose by; weights follow the cosine itself, without steps
    allowed = topk_mask(near, min(reach, x.shape[0]))
    allowed = allowed | one_hot(near.argmax(0), anchors.shape[0]).T.bool()
    scores = torch.where(allowed, likeness / temperature + sizes.log(), -BIG)
    drawn = torch.softmax(scores, dim=1)
    shares = drawn / drawn.sum(0).clamp(min=SMALLEST_SUM)  # of a row, among anchors
    weights = shares / shares.sum(1, keepdim=True).clamp(min=SMALLEST_SUM)
    return Plan(anchors, shares @ sizes, x.shape[0], weights)


def adaptive_cells(grid: tuple[int, int], cells: tuple[int, int]) -> Tensor:
    """Means over cells as adaptive average pooling cuts them: a constant [cells, N].

    Cell c of m along n patches spans floor(c n / m) to ceil((c + 1) n / m): cells may overlap.
    """
    return _products(*(_spans(n, m) for n, m in zip(grid, cells, strict=True)))


def near_cells(grid: tuple[int, int], cells: tuple[int, int], window: int) -> Tensor:
    """True where a patch may join a cell: at most window // 2 cells away, a constant [cells, N]."""
    near = []
    for n, m in zip(grid, cells, strict=True):
        own = torch.arange(n) * m // n
        near.append(((own - torch.arange(m).unsqueeze(1)).abs() <= window // 2).float())
    return _products(*near) > 0


def soft_kmeans(
    x: Tensor, start: Tensor, allowed: Tensor, steps: int, temperature: float
) -> tuple[Tensor, Tensor]:
    """Clusters of rows that lie near: -> weights of each mean [m, n], rows of sum 1, and shares.

    The shares [m, n] say how each row is divided among the clusters, columns of sum 1. Weights are
    the shares of a cluster over their sum, taken from their logarithms: the shares of a cluster
    that is nobody's nearest are too small for float32, and their sum would be 0.

    x [n, V], start [m, n] the first means, allowed [m, n] bool. `temperature` multiplies the
    squared distance.
    """
    # Distances are the same from anywhere, and exact to more digits when rows are short.
    x = x - x.mean(0, keepdim=True)
    weights = start
    for _ in range(steps):
        score = torch.where(allowed, -temperature * _distance(weights @ x, x), -BIG)
        drawn = torch.log_softmax(score, 0)
        weights = torch.softmax(drawn, 1)
    return weights, drawn.exp()


def reconstruct(x: Tensor, means: Tensor, y: Tensor, nearest: int, temperature: float) -> Tensor:
    """Rows from what became of the clusters, by distance before (Expedit): -> [n, V].

    The weights of a row have length 1, as the reference divides them, and no sum of 1.

    Args:
        x: [n, V], rows when they were clustered.
        means: [m, V], the clusters then.
        y: [m, V], the clusters now.
        nearest: how many clusters make a row.
    """
    centre = x.mean(0, keepdim=True)  # far from it, squares would drown the differences
    score = -temperature * _distance(means - centre, x - centre).T  # [n, m]
    kept = topk_mask(score, min(nearest, means.shape[0]))
    weight = torch.where(kept, (score - score.amax(1, keepdim=True)).exp(), 0.0)
    return (weight / (weight * weight).sum(1, keepdim=True).sqrt()) @ y


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared distance of each row of a to each of b: [A, V], [B, V] -> [A, B]."""
    return ((a * a).sum(1, keepdim=True) + (b * b).sum(1) - 2 * (a @ b.T)).clamp(min=0)


def _spans(n: int, parts: int) -> Tensor:
    rows = torch.zeros(parts, n)
    for part in range(parts):
        low, high = part * n // parts, math.ceil((part + 1) * n / parts)
        rows[part, low:high] = 1 / (high - low)
    return rows


def _products(vertical: Tensor, horizontal: Tensor) -> Tensor:
    (down, rows), (across, columns) = vertical.shape, horizontal.shape
    cells = vertical.reshape(down, 1, rows, 1) * horizontal.reshape(1, across, 1, columns)
    return cells.reshape(down * across, rows * columns)
