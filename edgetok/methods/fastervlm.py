"""FasterVLM (arXiv 2412.01818 v1): keep the patches that the CLS token attends to most.

Inputs: features [N, V]; CLS attention [N] of the layer that the features come from, mean over
heads. Kept tokens stay in raster order, the CLS token is not kept.

Frozen form: exact. The reference projects all N tokens before it selects; the projector works
row by row, so selecting first gives the same tokens for less.
"""

from __future__ import annotations

from edgetok import names, tokens
from edgetok.methods.method import Method


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    return tokens.Plan.gather(tokens.topk(features.cls_attention, budget), features.n_tokens)


METHOD = Method(
    name="fastervlm",
    paper="arXiv 2412.01818 v1",
    where="behind the tower",
    needs=(names.CLS_ATTENTION,),
    verdict="exact",
    summary="keeps the patches with the highest CLS attention",
    reduce=reduce,
    cost="9 N",
    ranked=(names.CLS_ATTENTION,),
    differs="nothing",
)
