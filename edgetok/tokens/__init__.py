"""The mathematics of token reduction: small pure functions that freeze into static graphs.

Every function takes unbatched tensors and Python integers, uses operators with fixed output
shapes only, scores in float32 and gives ties to the lower index, in torch as in ONNX Runtime.

The names below are loaded when first used, so that importing this package (and with it the list
of methods) needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgetok.tokens.complete_graph import merge_complete
    from edgetok.tokens.encoder import Look, Place, Rows, merge_attention, reduce_inside
    from edgetok.tokens.features import Features
    from edgetok.tokens.frames import (
        Segments,
        cut_segments,
        find_static,
        frame_similarity,
        frame_topk,
        resample_frames,
    )
    from edgetok.tokens.greedy import (
        coverage,
        dedup_halving,
        determinantal,
        farthest,
        least_alike,
        max_sum,
        take_one_by_one,
    )
    from edgetok.tokens.learned import Separable, score_learned
    from edgetok.tokens.matchers import (
        bipartite,
        density_peaks,
        halve,
        kmeans,
        nearest_tokens,
        sum_neighbours,
    )
    from edgetok.tokens.mergers import (
        area_pooling,
        cell_means,
        mean,
        nearest_anchor,
        spread_anchors,
        sum_plus_mean,
    )
    from edgetok.tokens.merging import (
        ahead_in_order,
        alternating,
        behind_prefix,
        every_kth,
        keep_and_sum,
        keep_prefix,
        merge_adjacent,
        merge_both_ways,
        merge_groups,
        merge_ranked,
        merge_sets,
        merge_windows,
        set_edges,
        square_windows,
        window_likeness,
    )
    from edgetok.tokens.pictures import join_plans, share_evenly, split_pictures
    from edgetok.tokens.plan import Plan, one_hot
    from edgetok.tokens.quota import (
        cells,
        quota_topk,
        quotas,
    )
    from edgetok.tokens.scorers import (
        FINE_STEPS,
        attended,
        band_scores,
        cls_similarity,
        cosine,
        energy,
        on_grid,
        on_relative_grid,
        relative,
        repeatable_similarity,
        rescaled,
        shares,
        similarity,
        text_relevance,
        unit_rows,
        without_sinks,
    )
    from edgetok.tokens.selectors import (
        BIG,
        complement,
        exclude,
        forced_topk,
        mask_of,
        order,
        order_on_grid,
        plus_mask,
        ranks,
        raster_indices,
        row_topk,
        seeded_subset,
        spread_indices,
        topk,
        topk_mask,
    )
    from edgetok.tokens.signals import (
        edge_density,
        effective_count,
        elbow,
        elbow_tokens,
        participation_rank,
    )
    from edgetok.tokens.soft import (
        adaptive_cells,
        near_cells,
        reconstruct,
        soft_anchors,
        soft_kmeans,
    )
    from edgetok.tokens.tiles import (
        along_canvas,
        spread_over_tiles,
        sum_by_tile,
        tile_numbers,
    )

__all__ = [
    "BIG",
    "FINE_STEPS",
    "Features",
    "Look",
    "Place",
    "Plan",
    "Rows",
    "Segments",
    "Separable",
    "adaptive_cells",
    "ahead_in_order",
    "along_canvas",
    "alternating",
    "area_pooling",
    "attended",
    "band_scores",
    "behind_prefix",
    "bipartite",
    "cell_means",
    "cells",
    "cls_similarity",
    "complement",
    "cosine",
    "coverage",
    "cut_segments",
    "dedup_halving",
    "density_peaks",
    "determinantal",
    "edge_density",
    "effective_count",
    "elbow",
    "elbow_tokens",
    "energy",
    "every_kth",
    "exclude",
    "farthest",
    "find_static",
    "forced_topk",
    "frame_similarity",
    "frame_topk",
    "halve",
    "join_plans",
    "keep_and_sum",
    "keep_prefix",
    "kmeans",
    "least_alike",
    "mask_of",
    "max_sum",
    "mean",
    "merge_adjacent",
    "merge_attention",
    "merge_both_ways",
    "merge_complete",
    "merge_groups",
    "merge_ranked",
    "merge_sets",
    "merge_windows",
    "near_cells",
    "nearest_anchor",
    "nearest_tokens",
    "on_grid",
    "on_relative_grid",
    "one_hot",
    "order",
    "order_on_grid",
    "participation_rank",
    "plus_mask",
    "quota_topk",
    "quotas",
    "ranks",
    "raster_indices",
    "reconstruct",
    "reduce_inside",
    "relative",
    "repeatable_similarity",
    "resample_frames",
    "rescaled",
    "row_topk",
    "score_learned",
    "seeded_subset",
    "set_edges",
    "share_evenly",
    "shares",
    "similarity",
    "soft_anchors",
    "soft_kmeans",
    "split_pictures",
    "spread_anchors",
    "spread_indices",
    "spread_over_tiles",
    "square_windows",
    "sum_by_tile",
    "sum_neighbours",
    "sum_plus_mean",
    "take_one_by_one",
    "text_relevance",
    "tile_numbers",
    "topk",
    "topk_mask",
    "unit_rows",
    "window_likeness",
    "without_sinks",
]

_HOMES = (
    "complete_graph",
    "encoder",
    "features",
    "frames",
    "greedy",
    "learned",
    "matchers",
    "mergers",
    "merging",
    "pictures",
    "plan",
    "quota",
    "scorers",
    "selectors",
    "signals",
    "tiles",
    "soft",
)


def __getattr__(name: str) -> object:
    if name in __all__:
        modules = (import_module(f"{__name__}.{home}") for home in _HOMES)
        return next(getattr(module, name) for module in modules if hasattr(module, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
