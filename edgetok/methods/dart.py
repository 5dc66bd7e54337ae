"""DART (arXiv 2502.11494) in front of the decoder: keep what repeats a few pivots least.

Inputs: projected tokens [N, D].

Pivots are the 4 tokens of largest L1 norm. They stay, and each in turn has those stay that resemble
it least by cosine, as many for each. Raster order. Of K tokens that do not divide by 4, the first
pivots have one more.

Frozen form: own formulation. The paper acts behind layer 2 of the decoder (`--prefill dart`), where
keys say what a pivot is and the text has pivots too; in front of it there is neither.
"""

from __future__ import annotations

from edgetok import tokens
from edgetok.methods.method import Method

PIVOTS = 4


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    n, first = features.n_tokens, min(budget, PIVOTS)
    pivots = tokens.topk(features.x.abs().sum(1), first)
    rows = tokens.unit_rows(features.x)
    mask = tokens.mask_of(pivots, n)
    kept = tokens.least_alike(rows, [rows.index_select(0, pivots)], mask, budget - first)
    return tokens.Plan.gather(tokens.raster_indices(kept, budget), n)


METHOD = Method(
    name="dart",
    paper="arXiv 2502.11494",
    where="behind the tower",
    needs=(),
    verdict="own formulation",
    summary="keeps what repeats 4 pivots least, those of the largest norm",
    reduce=reduce,
    space="projected",
    cost="13 N D + 30 N",
    differs="93.0 % of their function on the same rows, all once its pivots are sorted; acts "
    "in front of the decoder, by norms of tokens and without pivots of the text",
)
