"""HoliTom (arXiv 2505.21334): what stands still in a run of frames becomes one token.

Inputs: projected tokens [P * N, D] of P frames; attention [P * N] that patches receive from all
patches of their frame.

A place is static between two frames if the cosine of its patches there is above tau. The frames
are cut into segments such that the sum over segments of (frames - 1) * (places static throughout)
is largest, which dynamic programming finds. In a segment each static place is one token, the mean
over its frames; the others, dynamic ones, stay as they are. Every frame's dynamic tokens and every
segment's static ones then keep the same ratio of them, those of most attention. tau is 0.65 at
budgets of an eighth and less, else 0.8, as in the reference.

Frozen form: fixed budget. The ratio is the one with which K tokens are left, and what rounding
leaves goes to the largest remainders; if fewer than K are left before it, the best of what was
averaged away fills up. Static tokens compete by their mean attention, where the reference clusters
them (DPC-KNN with random numbers). They stand in the segment's first frame, in raster order, where
the reference puts them in front of it; it also pools each frame 2 x 2 before. Merging inside the
language model is not part of it. Cosines are compared on a grid of 1/4096; of equally good cuts,
that of the shortest last segment is taken, and so on from the end.
"""

from __future__ import annotations

from edgetok import names, tokens
from edgetok.methods.method import Method

TAU, TAU_OF_SMALL = 0.8, 0.65
SMALL_RATIO = 0.125


def threshold(budget: int, n_tokens: int) -> float:
    """tau of a budget."""
    return TAU_OF_SMALL if budget <= SMALL_RATIO * n_tokens else TAU


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    import torch

    pictures, scores = features.pictures, features.received_attention
    tau = threshold(budget, features.n_tokens)
    still = tokens.frame_similarity(features.x, pictures) > tau
    found = tokens.find_static(still, tokens.cut_segments(still))
    ranked = found.average(scores.reshape(pictures, -1))
    # A frame's dynamic patches are one group, the static ones of a segment's first frame another.
    groups = torch.stack([found.dynamic, found.static]).float()
    counts = tokens.quotas(groups.sum(2).flatten(), budget).reshape(2, pictures, 1)
    kept = tokens.frame_topk(ranked, found.dynamic, (groups * counts).sum(0), budget)
    return found.merge(kept)


METHOD = Method(
    name="holitom",
    paper="arXiv 2505.21334",
    where="behind the tower",
    needs=(names.RECEIVED_ATTENTION,),
    verdict="fixed-budget",
    summary="averages what stands still over runs of frames, and keeps by received attention",
    reduce=reduce,
    ranked=(names.RECEIVED_ATTENTION,),
    shares=True,
    space="projected",
    differs=(
        "a constant number; no pooling of 2 x 2 before, static tokens compete where theirs "
        "are clustered (58.8 % of tokens, 96.7 % of dynamic ones); segments are theirs"
    ),
)
