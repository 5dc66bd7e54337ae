"""PruMerge and PruMerge+ (arXiv 2403.15388): centres take in their neighbours by attention.

Inputs: features [N, V]; CLS attention [N] and keys [N, V] of the block behind the feature layer,
both as one head of the full width, as the reference has them.

K - 1 centres, those with the highest attention in that order. To each one are added its 32
nearest tokens by cosine of keys (other centres may be among them), each times its attention; the
weights are not normalised. The last token is the sum of all others, weighted the same way.
`prumerge+` forces three quarters of its centres onto even steps along the raster and fills up by
attention, in raster order. A token may go into several sums; sizes share it out and sum to N.

Frozen form: fixed budget. The papers count as centres what lies above the upper outlier fence of
the attention, another number for each image, and PruMerge+ derives its step from that; here even
places reach the end of the raster at every budget, as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgetok import names, tokens
from edgetok.methods.method import Method

if TYPE_CHECKING:
    from torch import Tensor


NEIGHBOURS = 32


def gather_around(features: tokens.Features, centres: Tensor) -> tokens.Plan:
    weight, keys = features.probe(names.NEXT_WIDE_ATTENTION), features.probe(names.NEXT_KEYS)
    return tokens.sum_neighbours(keys, weight, centres, min(NEIGHBOURS, features.n_tokens - 1))


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    ranked = tokens.order(features.probe(names.NEXT_WIDE_ATTENTION))
    return gather_around(features, ranked[: budget - 1])


def reduce_plus(features: tokens.Features, budget: int) -> tokens.Plan:
    centres, n = budget - 1, features.n_tokens
    even = tokens.mask_of(tokens.spread_indices(n, centres - round(centres / 4)), n)
    scores = features.probe(names.NEXT_WIDE_ATTENTION)
    return gather_around(features, tokens.forced_topk(scores, even, centres))


def budgets(n_tokens: int, grid: tuple[int, int]) -> Sequence[int]:
    """From one centre and the token of all others upwards."""
    return range(2, n_tokens + 1)


METHOD = Method(
    name="prumerge",
    paper="arXiv 2403.15388",
    where="behind the tower",
    needs=(names.NEXT_WIDE_ATTENTION, names.NEXT_KEYS),
    verdict="fixed-budget",
    summary="adds to the patches of highest CLS attention their nearest by keys",
    reduce=reduce,
    budgets=budgets,
    cost="4 K N D + 20 K N + 6 N²",
    differs=(
        "a constant number of centres; at an equal number rounding alone (1 of 32 neighbours)"
    ),
)

PLUS = replace(
    METHOD,
    name="prumerge+",
    summary="the same around patches of high attention and patches at even steps",
    reduce=reduce_plus,
    cost="4 K N D + 20 K N",
    differs="a constant number of centres, even ones at steps that are not all equal",
)
