"""Sparsity Meets Similarity (arXiv 2409.01162 v2): keep the patches most similar to the CLS token.

Inputs: features [N, V]; the CLS row [1, V] beside them. Raster order; the CLS token is not kept.

Frozen form: fixed budget. The paper keeps what lies before the inflection of the sorted curve of
similarities, another number for each image; here the budget decides, and the bundle's signal
`signal_elbow_tokens` tells the number that the rule would have kept. The second cut, inside the
language model, is left out.
"""

from __future__ import annotations

from edgetok import names, tokens
from edgetok.methods.method import Method


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    scores = tokens.on_grid(tokens.cls_similarity(features.x, features.cls_feature))
    return tokens.Plan.gather(tokens.topk(scores, budget), features.n_tokens)


METHOD = Method(
    name="sparsity-similarity",
    paper="arXiv 2409.01162 v2",
    where="behind the tower",
    needs=(names.CLS_FEATURE,),
    verdict="fixed-budget",
    summary="keeps the patches most similar to the CLS token",
    reduce=reduce,
    cost="5 N D + 14 N",
)
