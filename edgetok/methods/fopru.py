"""FoPru (arXiv 2411.14164): keep the patches, or the rows of patches, that most attention goes to.

Inputs: features [N, V] on a grid; received attention [N] of the feature layer, mean over heads
and queries. No CLS token is needed. Kept tokens stay in raster order.

`fopru` ranks patches. `fopru-row` ranks rows of the grid by the mean over their patches and keeps
whole ones, so its budgets are multiples of the columns; means that differ by less than 1/8192 of
the best are equal, and the upper row goes first.

Frozen form: exact for what the paper states. There is no reference code; that attention is
averaged over all queries, the CLS token's too, is read from the paper's wording.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgetok import names, tokens
from edgetok.methods.method import Method


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    return tokens.Plan.gather(tokens.topk(features.received_attention, budget), features.n_tokens)


def reduce_rows(features: tokens.Features, budget: int) -> tokens.Plan:
    scores = tokens.band_scores(features.received_attention, features.grid)
    kept = tokens.row_topk(scores, features.grid, budget)
    return tokens.Plan.gather(kept, features.n_tokens)


def whole_rows(n_tokens: int, grid: tuple[int, int]) -> Sequence[int]:
    return range(grid[1], n_tokens + 1, grid[1])


METHOD = Method(
    name="fopru",
    paper="arXiv 2411.14164",
    where="behind the tower",
    needs=(names.RECEIVED_ATTENTION,),
    verdict="exact",
    summary="keeps the patches that receive the most attention",
    reduce=reduce,
    cost="9 N",
    ranked=(names.RECEIVED_ATTENTION,),
    differs="as the paper states it: no program was found",
)

ROWS = replace(
    METHOD,
    name="fopru-row",
    summary="keeps the rows of patches that receive the most attention",
    reduce=reduce_rows,
    budgets=whole_rows,
    cost="2 N",
    ranked=(),  # a masked patch would sink its whole row
    differs="as the paper states it: no program was found",
)
