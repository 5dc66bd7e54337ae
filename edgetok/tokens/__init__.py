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
    from edgetok.tokens.features import Features
    from edgetok.tokens.mergers import (
        area_pooling,
        mean,
        nearest_anchor,
        spread_anchors,
        sum_plus_mean,
    )
    from edgetok.tokens.plan import Plan, one_hot
    from edgetok.tokens.scorers import cls_similarity, cosine, unit_rows
    from edgetok.tokens.selectors import (
        complement,
        forced_topk,
        mask_of,
        raster_indices,
        seeded_subset,
        topk,
        topk_mask,
    )
    from edgetok.tokens.signals import effective_count, elbow, elbow_tokens

__all__ = [
    "Features",
    "Plan",
    "area_pooling",
    "cls_similarity",
    "complement",
    "cosine",
    "effective_count",
    "elbow",
    "elbow_tokens",
    "forced_topk",
    "mask_of",
    "mean",
    "nearest_anchor",
    "one_hot",
    "raster_indices",
    "seeded_subset",
    "spread_anchors",
    "sum_plus_mean",
    "topk",
    "topk_mask",
    "unit_rows",
]

_HOMES = ("features", "mergers", "plan", "scorers", "selectors", "signals")


def __getattr__(name: str) -> object:
    if name in __all__:
        modules = (import_module(f"{__name__}.{home}") for home in _HOMES)
        return next(getattr(module, name) for module in modules if hasattr(module, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
