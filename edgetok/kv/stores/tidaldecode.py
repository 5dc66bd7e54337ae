"""TidalDecode (arXiv 2410.05076): a few layers look at all rows and say which ones others read.

Nothing is evicted: reading is what gets cheaper. Selection layers attend to everything and take the
k rows that receive most, among which the newest has no place of its own; the layers after them
attend to those, until the next one.

Frozen: rows are chosen per key/value head, by the attention that the heads of its group pay
together, where the paper chooses per query head, so that one gather serves a group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

FORBIDDEN = -1e9  # a score that softmax makes zero


def choose_rows(weights: Tensor, held: Tensor, count: int) -> Tensor:
    """Rows that one query per head attends to most: int64 [G, count].

    Args:
        weights: float32 [G, heads / G, C], attention of the newest row.
        held: int64 [1], rows before the newest one. Where there are fewer than `count` with it,
            -1 stands for what is missing.
    """
    import torch

    paid = weights.sum(1)
    paid = torch.where(torch.arange(paid.shape[1]) <= held, paid, -1.0)
    chosen = torch.topk(paid, count, dim=-1).indices
    return torch.where(chosen <= held, chosen, -1)


def gather_rows(buffer: Tensor, places: Tensor) -> Tensor:
    """Rows [1, G, n, H] at places [G, n] of a buffer [1, G, C, H]."""
    import torch
    from torch.nn.functional import embedding  # whole rows at a time

    _, groups, slots, width = buffer.shape
    firsts = torch.arange(groups).unsqueeze(1) * slots
    return embedding(places + firsts, buffer.reshape(groups * slots, width)).unsqueeze(0)


def attend(query: Tensor, keys: Tensor, values: Tensor, true: Tensor) -> Tensor:
    """Attention of one query per head to rows where `true` [G, n]: float32 [1, heads, 1, H].

    Args:
        query: float32 [1, heads, 1, H], scaled.
        keys, values: float32 [1, G, n, H].
    """
    import torch

    heads, groups, head_dim = query.shape[1], keys.shape[1], keys.shape[3]
    scores = query.reshape(1, groups, heads // groups, head_dim) @ keys.transpose(2, 3)
    weights = torch.softmax(torch.where(true.unsqueeze(1), scores, FORBIDDEN), dim=-1)
    return (weights @ values).reshape(1, heads, 1, head_dim)
