"""CrossGET without its learned token (arXiv 2305.17455): merge over the complete graph.

Inputs: features [N, V]; keys [N, H] and received attention [N] of the feature layer, mean over
heads. No CLS token is needed.

Every token may be merged into any other, not even ones into odd ones only: those whose keys have
the nearest partner, received attention subtracted, are merged into the most similar token that
stays. Of two that are nearest to each other, the one of lower index looks for the other. A pair
counts by softmax of the attention both receive, times how many patches each stands for. Half of
the tokens at most in one round, repeated until K are left. Raster order, sizes sum to N.

Frozen form: own formulation. The paper trains a cross token in every layer, whose attention adds
to the importance, and merges a constant number in each layer of the encoder; without it and
behind the encoder, what is left is the matching and the weights of its reference code. There a
token that receives many of far greater importance could get a negative weight; here a weight is
never negative.
"""

from __future__ import annotations

from edgetok import names, tokens
from edgetok.methods.method import Method


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    received = features.received_attention.clamp(0, 1)  # as attention is
    n = features.n_tokens
    plan = tokens.Plan.identity(n)
    while n > budget:
        r = min(n // 2, n - budget)
        importance = plan.apply(received.unsqueeze(1))[:, 0]
        step = tokens.merge_complete(plan.apply(features.keys), importance, r, plan.sizes)
        plan, n = plan.compose(step), n - r
    return plan


METHOD = Method(
    name="crossget",
    paper="arXiv 2305.17455",
    where="behind the tower",
    needs=(names.KEYS, names.RECEIVED_ATTENTION),
    verdict="own formulation",
    summary="merges tokens into the most similar ones, the least attended first",
    reduce=reduce,
    cost="0.4 N³ + 105 N²",
)
