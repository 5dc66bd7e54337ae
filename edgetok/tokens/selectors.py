"""Selectors: from scores to a fixed number of indices in raster order.

No selector depends on the order in which TopK returns equal scores, which torch, TensorRT and
OpenVINO leave open: only the K-th largest value is taken from it, and ties at that value are
counted from the left.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from edgetok.tokens.scorers import STEPS

BIG = 1e9  # beyond any score; finite, so that no arithmetic on it makes NaN (R13)


def topk_mask(scores: Tensor, k: int) -> Tensor:
    """True at the `k` highest of each row, ties to the lower index: [..., N] -> [..., N] bool."""
    if k == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = scores.topk(k).values[..., k - 1 :]
    above = scores > threshold
    tied = scores == threshold
    # Places left for ties; float32 counts exactly below 2^24.
    places = k - above.float().sum(-1, keepdim=True)
    return above | (tied & (tied.float().cumsum(-1) <= places))


def raster_indices(mask: Tensor, k: int) -> Tensor:
    """Positions of the `k` true entries of each row, ascending: [..., N] bool -> [..., k] int64.

    The keys are distinct integers: the true entries from left to right, then the others (R2).
    """
    n = mask.shape[-1]
    keys = mask.float() * (2 * n) - torch.arange(n, device=mask.device)
    return keys.topk(k).indices


def topk(scores: Tensor, k: int) -> Tensor:
    """Indices of the `k` highest scores of each row, ascending: [..., N] -> [..., k] int64."""
    return raster_indices(topk_mask(scores, k), k)


def forced_topk(scores: Tensor, forced: Tensor, k: int) -> Tensor:
    """Like `topk`, but `forced` [N] bool entries come first, whatever their score (R3).

    If more than `k` are forced, those with the lowest indices stay.
    """
    return topk(torch.where(forced, BIG, scores), k)


def ranks(scores: Tensor, comparable: Tensor | None = None) -> Tensor:
    """Place of each score, 0 for the highest, ties by index: [N] -> [N] float32 (R6).

    With `comparable` [N, N] bool, the place among those that it may be compared with.
    """
    position = torch.arange(scores.shape[0], device=scores.device)
    earlier = position.unsqueeze(0) < position.unsqueeze(1)
    own, other = scores.unsqueeze(1), scores.unsqueeze(0)
    before = (other > own) | ((other == own) & earlier)
    return (before if comparable is None else before & comparable).float().sum(1)


def order(scores: Tensor) -> Tensor:
    """Indices by descending score, ties by ascending index: [N] -> [N] int64."""
    return (-ranks(scores)).topk(scores.shape[0]).indices  # ranks are distinct


def order_on_grid(scores: Tensor) -> Tensor:
    """`order` of scores on the grid in [-1, 1], at most 2048 of them: [N] -> [N] int64.

    Fewer operators than `order`, for selectors of many rounds. The keys are distinct integers
    below 2^24, which float32 holds exactly.
    """
    n = scores.shape[0]
    return (scores * (STEPS * n) - torch.arange(n, dtype=torch.float32)).topk(n).indices


def row_topk(scores: Tensor, grid: tuple[int, int], k: int) -> Tensor:
    """All patches of the `k / columns` best rows of the grid: [rows] -> [k] int64."""
    rows = topk(scores, k // grid[1])
    return (rows.unsqueeze(1) * grid[1] + torch.arange(grid[1])).reshape(k)


def plus_mask(centres: Tensor, grid: tuple[int, int]) -> Tensor:
    """True at the centres and one step left, right, up and down: [C] int64 -> [N] bool.

    Steps are taken along the raster and end at the first and last patch, as HiPrune takes them:
    left of a row's first patch lies the last patch of the row above.
    """
    rows, columns = grid
    steps = torch.tensor([0, -1, 1, -columns, columns])
    around = (centres.unsqueeze(1) + steps).clamp(0, rows * columns - 1)
    return mask_of(around.flatten(), rows * columns)


def exclude(scores: Tensor, mask: Tensor) -> Tensor:
    """Scores with those in `mask` behind all others: [..., N], [..., N] bool -> [..., N]."""
    return torch.where(mask, -BIG, scores)


def spread_indices(n: int, count: int) -> Tensor:
    """`count` of `n` indices from 0, as even as whole numbers are, a constant: -> [count] int64."""
    return torch.arange(count) * n // max(1, count)


def mask_of(indices: Tensor, n: int) -> Tensor:
    """True at `indices`: [K] int64 -> [n] bool."""
    if indices.shape[0] == 0:  # runtimes disagree on reducing an axis of length 0
        return torch.zeros(n, dtype=torch.bool, device=indices.device)
    return (indices.unsqueeze(1) == torch.arange(n, device=indices.device)).any(0)


def complement(indices: Tensor, n: int) -> Tensor:
    """The other indices, in ascending order: [K] distinct int64 -> [n - K] int64."""
    return raster_indices(~mask_of(indices, n), n - indices.shape[0])


def seeded_subset(n: int, k: int, seed: int) -> Tensor:
    """`k` of `n` indices in ascending order, a constant in the graph: [k] int64.

    A smaller subset of the same seed is part of a larger one. The subset depends on PCG64's raw
    stream alone, which NumPy keeps the same in all versions, unlike its `permutation`.
    """
    order = np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable")
    return torch.tensor(sorted(order[:k].tolist()), dtype=torch.int64)
