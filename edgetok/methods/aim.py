"""AIM merging (arXiv 2412.03248): halve the tokens by merging even ones into similar odd ones.

Inputs: projected tokens [N, D]. Even places are sources, odd ones destinations; each source has
the destination of highest cosine, and the most similar half of all goes. A destination becomes
the plain mean of itself and its sources, whatever those stand for. Repeated until K are left, the
last time with as few merges as it takes. Order: sources that stay by descending similarity, then
destinations, as in the reference. Sizes sum to N.

Frozen form: exact, cosines on a grid of 1/4096. The paper merges frames of a video, of 14 x 14
tokens after a pooling that is not part of this; its pruning inside the language model is left out.
"""

from __future__ import annotations

from edgetok import tokens
from edgetok.methods.method import Method


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    return tokens.halve(features.x, budget)


METHOD = Method(
    name="aim",
    paper="arXiv 2412.03248",
    where="behind the tower",
    needs=(),
    verdict="exact",
    summary="merges even tokens into similar odd ones, again and again",
    reduce=reduce,
    space="projected",
    cost="0.9 N³ + 2.7 N² D",
    differs="rounding alone (97 % of groups; their half precision 89 %)",
)
