"""VFlowOpt (arXiv 2508.05211): keep by attention from global patches, recycle the rest by cells.

Inputs: projected tokens [N, D] on a grid; attention [N] of the feature layer from the patches that
receive far more than the mean, mean over heads.

K - 4 patches have the highest score. The others are averaged in each quarter of the grid, weighted
by their score, into one token at the place of the best of them. Raster order, sizes sum to N.

Frozen form: fixed budget. The paper searches retained share, threshold and cell size on data for
each ratio; here they are those it released for a quarter of the tokens, whose cells make two by
two, and its entropy term is off, as in the release. Where no patch receives 34.8 times the mean,
all of them ask, which ranks as fopru does; the release divides by zero there. The weakest patch of
each quarter is always recycled, so that no cell is empty. Cuts inside the language model are left
out.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgetok import names, tokens
from edgetok.methods.method import Method

QUARTERS = (2, 2)
CELLS = 4
SMALLEST_SCORE = 1e-6  # a cell of zeros is averaged evenly


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    n, scores = features.n_tokens, features.probe(names.GLOBAL_ATTENTION)
    cells = tokens.cells(features.grid, QUARTERS)
    inside = tokens.one_hot(cells, CELLS).T.bool()
    weakest = tokens.exclude(-scores, ~inside).argmax(1)
    kept = tokens.topk_mask(tokens.exclude(scores, tokens.mask_of(weakest, n)), budget - CELLS)
    places = tokens.exclude(scores, kept | ~inside).argmax(1)
    means = tokens.cell_means(~kept, scores.clamp(min=SMALLEST_SCORE), cells, CELLS)
    pruned = tokens.Plan.gather(tokens.raster_indices(kept, budget - CELLS), n)
    plan = pruned.concat(tokens.Plan.mix(means, places))
    return plan.compose(tokens.Plan.gather(tokens.order(-plan.indices.float()), budget))


def budgets(n_tokens: int, grid: tuple[int, int]) -> Sequence[int]:
    """From one kept patch and a token for each quarter upwards."""
    return range(CELLS + 1, n_tokens + 1)


METHOD = Method(
    name="vflowopt",
    paper="arXiv 2508.05211",
    where="behind the tower",
    needs=(names.GLOBAL_ATTENTION,),
    verdict="fixed-budget",
    summary="keeps by attention from global patches, averages the rest by quarters",
    reduce=reduce,
    budgets=budgets,
    space="projected",
    cost="2 K N D + 4 K N",
    differs=(
        "a constant number, no cuts in the language model; quarters of the grid where theirs are "
        "cells of 16 patches from its corner (97.2 % of tokens at their number; scores are theirs)"
    ),
)
