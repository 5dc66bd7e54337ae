"""Which rows of a layer stay, and where their keys are turned to.

Every head of a layer keeps the same number of rows but its own choice of them, in the order in
which they came: the cache stays a plain list, and attention over it needs no mask.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding  # a plain gather of rows; indexing would not be one

from edgetok.kv.policy import SCORE, SEEN, TEXT, Policy
from edgetok.tokens.selectors import BIG, topk

TEXT_RANK = 1e6  # above any attention mass; float32 still counts rows exactly on top of it


def rank(policy: Policy, planes: Tensor) -> Tensor:
    """What rows compete by: planes [P, G, n] -> float32 [G, n], larger stays longer."""
    _, groups, rows = planes.shape
    if SCORE not in policy.planes:
        return torch.zeros(groups, rows)
    plane = dict(zip(policy.planes, planes.unbind(0), strict=True))
    score = plane[SCORE]
    if SEEN in plane:
        score = score / plane[SEEN].clamp(min=1.0)
    if TEXT in plane:
        # Visual rows compete; only when none is left does the oldest text go.
        score = torch.where(plane[TEXT] > 0, TEXT_RANK + torch.arange(rows), score)
    return score


def choose(ranks: Tensor, count: Tensor, keep: int, sinks: int, recent: int) -> Tensor:
    """Rows that stay, ascending; ties go to the older row.

    Args:
        ranks: [G, n].
        count: scalar, true rows; none after them is taken if they are `keep` or more.
        keep: at least `sinks + recent`.

    Returns:
        int64 [G, keep].
    """
    place = torch.arange(ranks.shape[-1])
    always = (place < sinks) | (place >= count - recent)
    wanted = torch.where(always, BIG, ranks)
    return topk(torch.where(place < count, wanted, -BIG), keep)


def take(rows: Tensor, chosen: Tensor) -> Tensor:
    """rows [G, n, H] at `chosen` [G, k] -> [G, k, H]."""
    return rows.gather(1, chosen[..., None].expand(-1, -1, rows.shape[-1]))


def turn_back(keys: Tensor, by: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Keys as they would be so many positions earlier: rotary embedding is a rotation.

    Args:
        keys: float32 [G, k, H], rotated.
        by: int64 [G, k], at least 0.
        cos, sin: [positions, H / 2]; some models scale both, which cancels here.
    """
    length = cos[0, 0]
    cosine, sine = (embedding(by, table) / length for table in (cos, sin))
    half = keys.shape[-1] // 2
    first, second = keys[..., :half], keys[..., half:]
    return torch.cat([first * cosine + second * sine, second * cosine - first * sine], -1)


def turn(rows: Tensor, positions: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding: rows [heads, n, H] at positions [n], with tables [positions, H / 2]."""
    cosine, sine = embedding(positions, cos), embedding(positions, sin)
    half = rows.shape[-1] // 2
    first, second = rows[..., :half], rows[..., half:]
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)
