"""VisionZip (arXiv 2412.04467): dominant tokens as they are, the rest merged into contextual ones.

Inputs: features [N, V]; the CLS row [1, V]; CLS attention [N] and keys [N, H] of the same layer,
both mean over heads (the reference sums the attention: the same order).

Of K tokens, round(10 K / 64) and at least 1 are contextual, the paper's ratio (54 + 10 of 64,
162 + 30 of 192). The dominant ones are the CLS row and the patches it attends to most. Centres
stand at even steps among the remaining patches, which join the centre of most similar key; a
contextual token is the centre PLUS the mean of those that joined, not an average. Order: CLS,
dominant in raster order, contextual. Sizes sum to N + 1. K = N is the identity, without CLS.

Frozen form: exact, since the number of remaining patches depends on K alone. Equal scores and
similarities go to the lower index; the reference leaves their order open. Without a CLS token, the
received attention ranks, all dominant tokens are patches, and sizes sum to N.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgetok import names, tokens
from edgetok.methods.method import Method


def split(budget: int) -> tuple[int, int]:
    """Dominant tokens, CLS included, and contextual tokens of a budget."""
    contextual = max(1, round(budget * 10 / 64))
    return budget - contextual, contextual


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    return keep_and_merge(features, *split(budget))


def keep_and_merge(features: tokens.Features, dominant: int, contextual: int) -> tokens.Plan:
    """The CLS row, dominant - 1 patches, and `contextual` merged tokens."""
    has_cls = names.CLS_FEATURE in features.probes
    n, patches = features.n_tokens, dominant - has_cls
    kept = tokens.topk_mask(features.cls_attention, patches)
    anchors = tokens.spread_anchors(tokens.raster_indices(~kept, n - patches), contextual)
    groups = tokens.nearest_anchor(features.keys, anchors, members=~kept)
    merged = tokens.Plan.mix(tokens.sum_plus_mean(anchors, groups), anchors)
    pruned = tokens.Plan.gather(tokens.raster_indices(kept, patches), n)
    chosen = tokens.Plan.cls_row(n).concat(pruned) if has_cls else pruned
    return chosen.concat(merged)


def budgets(n_tokens: int, grid: tuple[int, int]) -> Sequence[int]:
    """From the CLS row and one contextual token upwards."""
    return range(2, n_tokens + 1)


METHOD = Method(
    name="visionzip",
    paper="arXiv 2412.04467",
    where="behind the tower",
    needs=(names.CLS_ATTENTION, names.KEYS, names.CLS_FEATURE),
    verdict="exact",
    summary="keeps the CLS token and the patches it attends to, merges the rest by their keys",
    reduce=reduce,
    budgets=budgets,
    cls_row_optional=True,
    cost="2 K N D + 0.3 K N H + 3 K N",
    ranked=(names.CLS_ATTENTION,),
    differs="nothing",
)
