"""HiPrune (arXiv 2508.00553): anchors on objects, their neighbours, and registers of the scene.

Inputs: features [N, V] on a grid; received attention [N], mean over heads and all queries, of the
object layer (the ninth of CLIP-L's 24, three eighths of the depth) and of the feature layer.

round(0.02 K) anchors receive most in the object layer (alpha = 0.1, of which an anchor takes a
fifth); the patches left, right, above and below each of them are kept too, and what is left of K
receives most in the feature layer. The step left of a row's first patch wraps to the row above,
as in the reference. Raster order.

Frozen form: exact, though the number of neighbours depends on the image: they are forced into one
selection of K, not taken before a second one.
"""

from __future__ import annotations

from edgetok import names, tokens
from edgetok.methods.method import Method


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    anchors = tokens.topk(features.probe(names.OBJECT_ATTENTION), round(budget * 0.02))
    around = tokens.plus_mask(anchors, features.grid)
    kept = tokens.forced_topk(features.received_attention, around, budget)
    return tokens.Plan.gather(kept, features.n_tokens)


METHOD = Method(
    name="hiprune",
    paper="arXiv 2508.00553",
    where="behind the tower",
    needs=(names.OBJECT_ATTENTION, names.RECEIVED_ATTENTION),
    verdict="exact",
    summary="keeps patches on objects, their neighbours, and the most attended of the rest",
    reduce=reduce,
    cost="0.2 K N + 18 N",
    ranked=(names.OBJECT_ATTENTION, names.RECEIVED_ATTENTION),
    differs="nothing",
)
