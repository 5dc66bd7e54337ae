"""CATP stage 1 (arXiv 2508.07871): tokens that stand for the picture and suit its text.

Inputs: projected tokens [N, D]; embeddings [T, D] of the prompt's tokens with a mask [T] of the
user's own text.

Similarity is the cosine moved to 0..1. Greedily, the token is taken that most raises the sum over
all tokens of their similarity to the nearest one taken, plus 0.7 times its own similarity to the
mean embedding of the text. Raster order.

Frozen form: exact for stage 1 as the paper states it (there is no code), where the text paired
with the picture is the question. K steps unrolled, similarities on a grid of 1/8192. The paper
lets stage 1 remove half of what is to go; the second stage, inside the language model, is left out.
"""

from __future__ import annotations

from edgetok import names, tokens
from edgetok.methods.method import Method

TEXT_WEIGHT = 0.7


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    text, mask = features.question
    meaning = (text * tokens.shares(mask).unsqueeze(1)).sum(0, keepdim=True)
    suits = (1 + tokens.cls_similarity(features.x, meaning)) / 2
    alike = (1 + tokens.similarity(features.x, features.x)) / 2
    # On the grid both, so that their sums are exact and ties stay ties.
    kept = tokens.coverage(alike, tokens.on_grid(TEXT_WEIGHT * suits), budget)
    return tokens.Plan.gather(kept, features.n_tokens)


METHOD = Method(
    name="catp",
    paper="arXiv 2508.07871",
    where="behind the tower",
    needs=names.OF_PROMPT,
    verdict="exact",
    summary="keeps tokens that stand for the picture and suit the question",
    reduce=reduce,
    cost="2 N² D + T N D + 3 K N² + 8 N² + 7 K N",
    space="projected",
    differs="as the paper states it: no program was found",
)
