"""VTC-CLS (arXiv 2412.05819): keep the patches with the highest CLS attention over several layers.

Inputs: features [N, V]; CLS attention [N], mean over heads, summed over the last third of the
blocks up to the feature layer: 16 to 22 of CLIP-L, as the reference has it. Raster order.

Frozen form: exact. On towers of another depth the paper leaves the first layer to the user; here
it stays at two thirds.
"""

from __future__ import annotations

from edgetok import names, tokens
from edgetok.methods.method import Method


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    scores = features.probe(names.LATE_CLS_ATTENTION)
    return tokens.Plan.gather(tokens.topk(scores, budget), features.n_tokens)


METHOD = Method(
    name="vtc-cls",
    paper="arXiv 2412.05819",
    where="behind the tower",
    needs=(names.LATE_CLS_ATTENTION,),
    verdict="exact",
    summary="keeps the patches with the highest CLS attention over the late layers",
    reduce=reduce,
    cost="9 N",
    ranked=(names.LATE_CLS_ATTENTION,),
    differs="read beside it only: the same formula",
)
