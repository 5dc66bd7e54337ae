"""HiRED (arXiv 2408.10945): CLS attention, and a share of the budget for each tile by its content.

Inputs: features [N, V]; late CLS attention [N], mean over heads, of the feature layer (the
reference sums over heads: the same order). For pictures in tiles also the early CLS attention
[N], of the first block.

A picture in one part keeps the K patches of highest late attention, in raster order. Of tiles
behind a thumbnail, the thumbnail gets round(K / 2), at most all of its patches. The other places
are shared among the tiles in proportion to how many of the thumbnail's better half, by early
attention, lie in the region of each. Every part keeps its patches of highest late attention;
thumbnail first, raster order within each part.

Frozen form: exact for one part, which is the paper's form for LLaVA-1.5; fixed budget for tiles.
There the reference rounds every quota down and so leaves places empty, which here go to the
largest remainders, and places beyond a tile's patches to the best of the other tiles. A region is
a rectangle of the picture, where the reference code takes strips of its raster line. The grid of
tiles is a constant of the graph, and no row is left out as padding.
"""

from __future__ import annotations

from dataclasses import replace

from edgetok import names, tokens
from edgetok.methods.method import Method

THUMBNAIL_SHARE = 0.5


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    return tokens.Plan.gather(tokens.topk(features.cls_attention, budget), features.n_tokens)


def for_tiles(tiles: tuple[int, int]) -> Method:
    """The method for a thumbnail and so many rows and columns of tiles."""

    def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
        n, grid, late = features.part_tokens, features.grid, features.cls_attention
        whole = min(round(budget * THUMBNAIL_SHARE), n)
        early = features.probe(names.EARLY_CLS_ATTENTION)[:n]
        content = tokens.topk_mask(early, int(n * (1 - THUMBNAIL_SHARE))).float()
        counts = tokens.quotas(tokens.sum_by_tile(content, grid, tiles), budget - whole)
        numbers = tokens.tile_numbers(n, tiles)
        detail = tokens.quota_topk(late[n:], numbers, counts, budget - whole) + n
        plan = tokens.Plan.gather(tokens.topk(late[:n], whole), features.n_tokens)
        return plan.follow_by(tokens.Plan.gather(detail, features.n_tokens))

    return replace(
        METHOD,
        needs=(names.CLS_ATTENTION, names.EARLY_CLS_ATTENTION),
        verdict="fixed-budget",
        reduce=reduce,
        budgets=lambda n_tokens, grid: range(2, n_tokens + 1),
        tiles=tiles,
    )


METHOD = Method(
    name="hired",
    paper="arXiv 2408.10945",
    where="behind the tower",
    needs=(names.CLS_ATTENTION,),
    verdict="exact",
    summary="keeps by CLS attention, and shares the budget among tiles by their content",
    reduce=reduce,
    cost="9 N",
    ranked=(names.CLS_ATTENTION,),
    retile=for_tiles,
    differs=(
        "nothing on pictures in one part; tiles: rectangles where theirs are strips, and "
        "remainders (97.8 %)"
    ),
)
