"""KFFocus (arXiv 2508.08989): frames that show something new get more of the budget.

Inputs: features [P * N, V] of P frames; CLS attention [P * N], or where there is no CLS token the
attention that patches receive.

A frame's novelty is one minus the mean cosine of its patches with those in their places in the
frame before; the first frame is all new. Of K tokens each frame has a share in proportion to its
novelty, of which it keeps the patches of highest attention; what a frame has too few patches for
goes to the best of all others. Frame after frame, raster order in each.

Frozen form: own formulation. Of the paper only its thesis is here, that the budget should follow
the redundancy between frames: it condenses key frames and others with trained modules, which no
checkpoint without them has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgetok import names, tokens
from edgetok.methods.method import Method

if TYPE_CHECKING:
    from torch import Tensor


def weigh_by_novelty(x: Tensor, frames: int) -> Tensor:
    """How many patches of each frame are new: [P * N, V] -> [P], N for the first one."""
    import torch

    alike = tokens.frame_similarity(x, frames)
    new = (1 - alike).sum(1).clamp(min=0)
    return torch.cat([torch.full((1,), float(alike.shape[1])), new])


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    shares = tokens.quotas(weigh_by_novelty(features.tower_rows, features.pictures), budget)
    scores = features.cls_attention.reshape(features.pictures, -1)
    counts = shares.unsqueeze(1).expand_as(scores)
    kept = tokens.frame_topk(scores, scores * 0, counts, budget)
    return tokens.Plan.gather(kept, features.n_tokens)


METHOD = Method(
    name="kffocus",
    paper="arXiv 2508.08989",
    where="behind the tower",
    needs=(names.CLS_ATTENTION,),
    verdict="own formulation",
    summary="gives frames that show something new more tokens, and keeps those by CLS attention",
    reduce=reduce,
    ranked=(names.CLS_ATTENTION,),
    shares=True,
)
