"""Turbo (arXiv 2407.11717): merge what is redundant and unimportant first.

Inputs: features [N, V]; keys [N, H] and CLS attention [N] of the feature layer, mean over heads.

As in token merging, even places are sources and odd ones destinations, compared by cosine of
their keys; 30 times the CLS attention of a source is taken from its similarity, so that what the
CLS token looks at is merged last. Means are weighted by how many patches a token stands for.
Repeated until K are left. Sizes sum to N.

Frozen form: own formulation. The paper merges a constant number in every block of the encoder and
scores anew in each, with attention that knows the sizes; here the encoder stays whole, and the
rounds behind it follow its last keys and attention, averaged along with the tokens.
"""

from __future__ import annotations

from edgetok import names, tokens
from edgetok.methods.method import Method

ATTENTION_WEIGHT = 30.0


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    penalty = ATTENTION_WEIGHT * features.cls_attention
    return tokens.halve(features.keys, budget, penalty=penalty, by_size=True)


METHOD = Method(
    name="turbo",
    paper="arXiv 2407.11717",
    where="behind the tower",
    needs=(names.KEYS, names.CLS_ATTENTION),
    verdict="own formulation",
    summary="merges tokens of similar keys, those of low CLS attention first",
    reduce=reduce,
    cost="0.9 N³ + 2.7 N² H + 2 K N D",
)
