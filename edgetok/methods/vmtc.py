"""VMTC (arXiv 2411.15453): keep by CLS attention, cluster the rest and average by attention.

Inputs: features [N, V]; CLS attention [N] of the feature layer, mean over heads.

Of K tokens, round(10 K / 64) and at least 1 are clusters. The others are the patches of highest
CLS attention, in raster order. The rest are clustered by cosine of their features, from centres
at even steps; a cluster's token is its mean weighted by CLS attention. Clusters come last and
have no single source. Sizes sum to N.

Frozen form: fixed budget. The paper's counts were not at hand, so the split is VisionZip's, and
Lloyd's iterations are three. Its mask of the language model's attention is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgetok import names, tokens
from edgetok.methods.method import Method

STEPS = 3
SMALLEST_WEIGHT = 1e-6


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    n, clusters = features.n_tokens, max(1, round(budget * 10 / 64))
    scores, count = features.cls_attention, budget - clusters
    kept = tokens.topk_mask(scores, count)
    start = tokens.spread_anchors(tokens.raster_indices(~kept, n - count), clusters)
    weights = scores.clamp(min=SMALLEST_WEIGHT)
    means = tokens.kmeans(features.x, weights, ~kept, start, STEPS)
    pruned = tokens.Plan.gather(tokens.raster_indices(kept, count), n)
    return pruned.concat(tokens.Plan.mix(means))


def budgets(n_tokens: int, grid: tuple[int, int]) -> Sequence[int]:
    """From one kept patch and one cluster upwards."""
    return range(2, n_tokens + 1)


METHOD = Method(
    name="vmtc",
    paper="arXiv 2411.15453",
    where="behind the tower",
    needs=(names.CLS_ATTENTION,),
    verdict="fixed-budget",
    summary="keeps by CLS attention, averages clusters of the rest",
    reduce=reduce,
    budgets=budgets,
    cost="3.9 K N D + 8 K N",
)
