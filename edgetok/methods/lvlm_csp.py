"""LVLM_CSP, cluster stage (arXiv 2504.10854): representatives at even steps, or by CLS attention.

Inputs: features [N, V]; for `lvlm-csp-cls` the CLS attention [N] of the feature layer, mean over
heads.

`lvlm-csp` keeps the patches floor(i N / K), a constant of the graph: even steps along the raster
at every budget. `lvlm-csp-cls` keeps those of highest CLS attention. Raster order.

Frozen form: own formulation. The paper runs its language model on these representatives, lets all
tokens in again and prunes by the attention of its segmentation token; that acts inside the
language model of a segmentation system and is left out. It is not stated how a stride that does
not divide N is rounded.
"""

from __future__ import annotations

from dataclasses import replace

from edgetok import names, tokens
from edgetok.methods.method import Method


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    n = features.n_tokens
    return tokens.Plan.gather(tokens.spread_indices(n, budget), n)


def reduce_by_attention(features: tokens.Features, budget: int) -> tokens.Plan:
    return tokens.Plan.gather(tokens.topk(features.cls_attention, budget), features.n_tokens)


METHOD = Method(
    name="lvlm-csp",
    paper="arXiv 2504.10854",
    where="behind the tower",
    needs=(),
    verdict="own formulation",
    summary="keeps patches at even steps along the raster",
    reduce=reduce,
    cost="2 K",
)

BY_ATTENTION = replace(
    METHOD,
    name="lvlm-csp-cls",
    needs=(names.CLS_ATTENTION,),
    summary="keeps the patches with the highest CLS attention as representatives",
    reduce=reduce_by_attention,
    cost="9 N",
    ranked=(names.CLS_ATTENTION,),
)
