"""TidalDecode (arXiv 2410.05076): a few layers look at all rows and say which ones others read.

Nothing is evicted: reading is what gets cheaper. Selection layers attend to everything and take the
k rows that receive most; the layers behind them attend to those alone, until the next one.

Frozen: rows are chosen per key/value head, by the attention that the heads of its group pay
together, where the paper chooses per query head, so that one gather serves a group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

FORBIDDEN = -1e9  # a score that softmax makes zero


def choose_rows(query: Tensor, keys: Tensor, true: Tensor, count: int) -> Tensor:
    """Rows that one query per head attends to most: int64 [1, G, count].

    Args:
        query: float32 [1, heads, 1, H], scaled.
        keys: float32 [1, G, C, H].
        true: bool [C], which slots hold a row. With fewer of them than `count`, slots that hold
            none are among the chosen, and `attend` leaves them out.
    """
    import torch

    heads, groups = query.shape[1], keys.shape[1]
    scores = query.reshape(1, groups, heads // groups, -1) @ keys.transpose(2, 3)
    paid = torch.softmax(torch.where(true, scores, FORBIDDEN), dim=-1).sum(2)
    return torch.topk(paid, count, dim=-1).indices


def attend(query: Tensor, keys: Tensor, values: Tensor, rows: Tensor, true: Tensor) -> Tensor:
    """Attention of one query per head to some rows [1, G, k]: float32 [1, heads, 1, H]."""
    import torch

    heads, groups, head_dim = query.shape[1], keys.shape[1], keys.shape[3]
    places = rows.unsqueeze(-1).expand(-1, -1, -1, head_dim)
    picked = [part.gather(2, places) for part in (keys, values)]
    allowed = true[rows].unsqueeze(2)
    scores = query.reshape(1, groups, heads // groups, head_dim) @ picked[0].transpose(2, 3)
    weights = torch.softmax(torch.where(allowed, scores, FORBIDDEN), dim=-1)
    return (weights @ picked[1]).reshape(1, heads, 1, head_dim)
