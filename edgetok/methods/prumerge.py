"""PruMerge and PruMerge+ (arXiv 2403.15388): centres take in their neighbours by attention.

Inputs: features [N, V]; CLS attention [N] and keys [N, V] of the block behind the feature layer,
both as one head of the full width, as the reference has them.

K - 1 centres, those with the highest attention in that order. To each one are added its 32
nearest tokens by cosine of keys (other centres may be among them), each times its attention; the
weights are not normalised. The last token is the sum of all others, weighted the same way.
`prumerge+` takes every s-th patch of the raster, about three quarters of its centres, and fills up
by attention, in raster order. A token may go into several sums; sizes share it out and sum to N.

Frozen form: fixed budget. The papers count as centres what lies above the upper outlier fence of
the attention, another number for each image, and PruMerge+ derives its step from that; here s is
the whole number that comes nearest to three quarters, which at the reference's own numbers of
centres is the reference's step.
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
    even = tokens.mask_of(even_places(n, centres), n)
    scores = features.probe(names.NEXT_WIDE_ATTENTION)
    return gather_around(features, tokens.forced_topk(scores, even, centres))


def even_places(n: int, centres: int) -> Tensor:
    """Every s-th of all patches but the last, as the reference counts; at most `centres`.

    >>> even_places(24, 10)
    tensor([ 0,  3,  6,  9, 12, 15, 18, 21])
    """
    import torch

    step = max(1, round(n / (centres - round(centres / 4))))
    while len(range(0, n - 1, step)) > centres:
        step += 1
    return torch.arange(0, n - 1, step)


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
        "a constant number of centres; at an equal number rounding alone (99.6 % of neighbours)"
    ),
)

PLUS = replace(
    METHOD,
    name="prumerge+",
    summary="the same around patches of high attention and patches at even steps",
    reduce=reduce_plus,
    cost="4 K N D + 20 K N",
    differs="a constant number of centres, of which attention chooses about a quarter (94.8 % of "
    "theirs at their number; their step in 11 of 12 cases)",
)
