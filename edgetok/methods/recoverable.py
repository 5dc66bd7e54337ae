"""Recoverable Compression without text (arXiv 2409.01179): keep, then merge what was dropped.

Inputs: features [N, V]; CLS attention [N] and keys [N, V] of the block behind the feature layer,
both as one head of the full width, as the reference has them.

Of K tokens, round(0.15 K) and at least 1 are recovered and one sums what is left; the others are
the patches of highest attention, in raster order. Of the rest, the patches of highest attention
are centres, in that order, and each adds its 32 nearest of the rest by cosine of keys, times
their attention, not normalised. The last token sums all that is neither kept nor a centre the same
way. A token may go into several sums; sizes share it out and sum to N.

Frozen form: fixed budget. The paper finds the three counts by outlier factors of the attention,
others for each image. Patches chosen by the prompt are left out, their share goes to attention.
Keys are taken of the right rows, where the reference code counts in a shortened list.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgetok import names, tokens
from edgetok.methods.method import Method

NEIGHBOURS = 32


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    n, recovered = features.n_tokens, max(1, round(0.15 * budget))
    count = budget - recovered - 1
    weight, keys = features.probe(names.NEXT_WIDE_ATTENTION), features.probe(names.NEXT_KEYS)
    kept = tokens.topk_mask(weight, count)
    centres = tokens.order(weight)[count : count + recovered]
    near = min(NEIGHBOURS, n - count - 1)
    merged = tokens.sum_neighbours(keys, weight, centres, near, members=~kept)
    return tokens.Plan.gather(tokens.raster_indices(kept, count), n).concat(merged)


def budgets(n_tokens: int, grid: tuple[int, int]) -> Sequence[int]:
    """From one kept patch, one centre and the sum of all others upwards."""
    return range(3, n_tokens + 1)


METHOD = Method(
    name="recoverable",
    paper="arXiv 2409.01179",
    where="behind the tower",
    needs=(names.NEXT_WIDE_ATTENTION, names.NEXT_KEYS),
    verdict="fixed-budget",
    summary="keeps by CLS attention, merges around the best of the rest",
    reduce=reduce,
    budgets=budgets,
    cost="2.3 K N D + 6 N² + 5 K N",
    differs="a constant number; read beside it only",
)
