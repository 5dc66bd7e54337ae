"""Matching over all pairs, where any token may be merged into any other (CrossGET)."""

from __future__ import annotations

import torch
from torch import Tensor

from edgetok.tokens.plan import Plan, one_hot
from edgetok.tokens.scorers import FINE_STEPS, on_grid, similarity
from edgetok.tokens.selectors import exclude, ranks, raster_indices, topk_mask

SMALLEST_WEIGHT = 1e-6


def merge_complete(metric: Tensor, importance: Tensor, r: int, sizes: Tensor | None = None) -> Plan:
    """Merge `r` of n tokens, each into the most similar one that stays: a plan of n - r tokens.

    Tokens are put in the order of their best similarity, and each looks for a partner among
    those behind it alone, so that no two want each other (of two that are nearest to each other,
    the one of lower index comes first). The `r` with the most similar partners,
    importance subtracted, go. Of a pair, each counts by softmax of the importances times its
    size. The order of the tokens is kept.

    Args:
        metric: [n, H], compared by cosine.
        importance: [n] in 0..1.
        r: at most n // 2.
        sizes: [n], 1 each if None.
    """
    n = metric.shape[0]
    similar = exclude(similarity(metric, metric), torch.eye(n, dtype=torch.bool))
    place = ranks(similar.amax(1))
    behind = place.unsqueeze(0) > place.unsqueeze(1)
    partner = exclude(similar, ~behind).amax(1)
    gone = topk_mask(on_grid(partner - importance, FINE_STEPS), r)
    target = exclude(similar, gone).argmax(1)
    joins = one_hot(target, n) * gone.float().unsqueeze(1)  # [source, destination]
    count = 2 * torch.sigmoid(importance - importance.index_select(0, target))
    sizes = torch.ones(n) if sizes is None else sizes
    # A destination of many sources that matter more could fall below nothing: see the pair's sum.
    own = (1 + ((1 - count).unsqueeze(1) * joins).sum(0)).clamp(min=SMALLEST_WEIGHT)
    weights = (joins.T * count + torch.eye(n) * own) * sizes
    whole = sizes + (joins * sizes.unsqueeze(1)).sum(0)
    stay = raster_indices(~gone, n - r)
    return Plan.mix((weights / whole.unsqueeze(1)).index_select(0, stay), stay)
