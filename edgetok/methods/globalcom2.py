"""GlobalCom2 (arXiv 2501.05179): the thumbnail decides how much of each tile is kept, and what.

Inputs: features [N, V]; CLS attention [N] before its softmax, mean over heads, of the block behind
the feature layer (the last one of CLIP).

The thumbnail keeps its patches of highest score, in the order of their scores, not of the raster.
Of K tokens it gets as large a share as of all N. Each tile is kept in proportion to
min(1, R (1 + s - mean s)), where R is K / N and s is the softmax over the tiles of the thumbnail's
scores summed over their regions, divided by 10. Within a tile, patches rank by their own scores
and the thumbnail's, resized bilinearly, each of length 1; they stand in the raster of all tiles
together, line by line across tiles. A picture in one part is all thumbnail.

Frozen form: fixed budget. In the reference the number of tokens varies with the picture where a
tile is kept whole, here the tiles' places add up to what K leaves. The grid of tiles is a constant
of the graph, no row is left out as padding, and the newline tokens that the reference adds after
each row are a matter of the model family. Scores before a softmax may be negative, as there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgetok import names, tokens
from edgetok.methods.method import Method

if TYPE_CHECKING:
    from torch import Tensor

TEMPERATURE = 10.0


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    ranked = tokens.order(features.probe(names.NEXT_CLS_LOGITS))
    return tokens.Plan.gather(ranked[:budget], features.n_tokens)


def retain(scores: Tensor, grid: tuple[int, int], tiles: tuple[int, int], share: float) -> Tensor:
    """How much of each tile is kept, in multiples of `share`: [n] -> [tiles]."""
    richness = tokens.sum_by_tile(scores, grid, tiles) / TEMPERATURE
    more = richness.softmax(0) - 1 / (tiles[0] * tiles[1])
    return tokens.on_grid((1 + more).clamp(max=1 / share))


def for_tiles(tiles: tuple[int, int]) -> Method:
    """The method for a thumbnail and so many rows and columns of tiles."""

    def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
        n, grid, whole = features.part_tokens, features.grid, budget // features.n_parts
        scores = features.probe(names.NEXT_CLS_LOGITS)
        seen, own = scores[:n], scores[n:].reshape(-1, n)
        kept = retain(seen, grid, tiles, budget / features.n_tokens)
        counts = tokens.quotas(kept, budget - whole)
        around = tokens.spread_over_tiles(seen, grid, tiles)
        both = tokens.unit_rows(own) + tokens.unit_rows(around)
        rank = tokens.on_relative_grid(both.flatten())
        chosen = tokens.quota_topk(rank, tokens.tile_numbers(n, tiles), counts, budget - whole)
        detail = tokens.along_canvas(chosen, grid, tiles) + n
        plan = tokens.Plan.gather(tokens.order(seen)[:whole], features.n_tokens)
        return plan.follow_by(tokens.Plan.gather(detail, features.n_tokens))

    return replace(
        METHOD,
        reduce=reduce,
        budgets=lambda n_tokens, grid: range(1 + tiles[0] * tiles[1], n_tokens + 1),
        tiles=tiles,
    )


METHOD = Method(
    name="globalcom2",
    paper="arXiv 2501.05179",
    where="behind the tower",
    needs=(names.NEXT_CLS_LOGITS,),
    verdict="fixed-budget",
    summary="keeps by CLS attention, and lets the thumbnail judge the tiles",
    reduce=reduce,
    cost="6 N² + N",
    retile=for_tiles,
    differs="one place between thumbnail and tiles (99.9 %); the order is theirs",
)
