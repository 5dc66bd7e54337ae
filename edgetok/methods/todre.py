"""ToDRE stage 1 (arXiv 2505.18757 v2): keep the tokens least similar to all kept before.

Inputs: projected tokens [N, D]; CLS attention [N], mean over heads, of the block behind the
feature layer (the last one of CLIP). The patch that the CLS token attends to most is the first;
then always the one with the lowest sum of cosines to those kept. Raster order.

Frozen form: exact for stage 1 as the paper states it (no program was found), K steps unrolled,
cosines on a grid of 1/4096. Stage 2, which drops all visual tokens late in the language model, is
left out.
"""

from __future__ import annotations

from edgetok import names, tokens
from edgetok.methods.method import Method


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    pivot = features.probe(names.NEXT_CLS_ATTENTION).unsqueeze(0).argmax(1)
    kept = tokens.max_sum(tokens.similarity(features.x, features.x), pivot, budget)
    return tokens.Plan.gather(kept, features.n_tokens)


METHOD = Method(
    name="todre",
    paper="arXiv 2505.18757 v2",
    where="behind the tower",
    needs=(names.NEXT_CLS_ATTENTION,),
    verdict="exact",
    summary="keeps the tokens least similar to all that it has kept",
    reduce=reduce,
    space="projected",
    cost="2 N² D + 6 N² + 2 K N",
    ranked=(names.NEXT_CLS_ATTENTION,),
    differs="as the paper states it: no program was found",
)
