"""FlowCut behind the tower (arXiv 2505.19536): rank by the flow of information through all blocks.

Inputs: features [N, V]; a score [N] that the tower gathers over the blocks up to the feature layer.

In each block a patch scores (attention of the CLS token, plus the softmax over all rows of the
products of values with the CLS token's, both means over heads, cut to the patches and made of sum
1) times the L1 length of its value, mean over heads; the sum is halved from block to block, and
half of the new score added.
The patches of highest sum are kept, in raster order. Without a CLS token, the attention of the
mean query stands in for both, as the reference has it for Qwen2-VL.

Frozen form: own formulation. The paper drops patches after every second block, as many as the
entropy of the attention says, so that later blocks do not see them; here the tower stays whole,
and one choice is made at its end. The paper's form acts inside the tower.
"""

from __future__ import annotations

from edgetok import names, tokens
from edgetok.methods.method import Method


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    kept = tokens.topk(features.probe(names.FLOW_SCORE), budget)
    return tokens.Plan.gather(kept, features.n_tokens)


METHOD = Method(
    name="flowcut-score",
    paper="arXiv 2505.19536",
    where="behind the tower",
    needs=(names.FLOW_SCORE,),
    verdict="own formulation",
    summary="keeps the patches that all blocks attend to and that hold long values",
    reduce=reduce,
    cost="9 N",
    ranked=(names.FLOW_SCORE,),
    differs="one choice behind the tower; the score of a block is theirs",
)
