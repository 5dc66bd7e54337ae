"""MustDrop, key set (arXiv 2411.10803): the patches of highest CLS attention in the last layer.

Inputs: features [N, V]; CLS attention [N], mean over heads, of the block behind the feature layer
(the last one of CLIP). Raster order.

Frozen form: fixed budget. The paper takes 8 % of the tokens as key set and protects them from its
later cuts inside the language model, which are left out; here the key set is all that stays, and
the budget says how many. Its windows, merged behind the first block, act inside the tower.
"""

from __future__ import annotations

from edgetok import names, tokens
from edgetok.methods.method import Method


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    scores = features.probe(names.NEXT_CLS_ATTENTION)
    return tokens.Plan.gather(tokens.topk(scores, budget), features.n_tokens)


METHOD = Method(
    name="mustdrop",
    paper="arXiv 2411.10803",
    where="behind the tower",
    needs=(names.NEXT_CLS_ATTENTION,),
    verdict="fixed-budget",
    summary="keeps the patches with the highest CLS attention of the last layer",
    reduce=reduce,
    cost="9 N",
    ranked=(names.NEXT_CLS_ATTENTION,),
    differs="nothing in the key set at its number; theirs protects it at later cuts, and here "
    "nothing else stays",
)
