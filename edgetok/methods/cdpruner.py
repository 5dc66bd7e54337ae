"""CDPruner (arXiv 2506.10967): tokens that matter to the question and differ from each other.

Inputs: projected tokens [N, D]; embeddings [T, D] of the prompt's tokens with a mask [T] of the
user's own text.

A token's relevance is its mean cosine with the question's tokens, stretched to 0..1 over the
picture. The tokens that maximise the determinant of relevance_i * cosine_ij * relevance_j are
taken greedily. Raster order. Without a question all are equally relevant.

Frozen form: own formulation of the relevance, exact selection given it. The paper compares CLIP's
patch and text embeddings, and a LLaVA checkpoint holds no text tower: here both sides are what
the language model reads. The paper's sign is turned, because CLIP's dense similarity is inverted;
between tokens of the language model it is not, so that more similar is more relevant here. K steps
unrolled; what a token adds is compared on a grid of 1/131072 of the most it could, equal ones go
to the lower index. Once the tokens taken span all others, where the reference divides by zero,
the most relevant of them follow. Shortly before, what is left of each is no more than what two
programs differ by, and they take different tokens: on the demo model behind the 64th or so. (To
count such small residuals as nothing has programs agree, and costs accuracy: what is left that
late still tells tokens apart.)
"""

from __future__ import annotations

from edgetok import names, tokens
from edgetok.methods.method import Method


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    relevance = tokens.rescaled(tokens.text_relevance(features.x, *features.question))
    similar = tokens.cosine(features.x, features.x)  # a grid would raise the kernel's rank
    kept = tokens.determinantal(similar, relevance, budget)
    return tokens.Plan.gather(kept, features.n_tokens)


METHOD = Method(
    name="cdpruner",
    paper="arXiv 2506.10967",
    where="behind the tower",
    needs=names.OF_PROMPT,
    verdict="own formulation",
    summary="keeps tokens that matter to the question and differ from each other",
    reduce=reduce,
    cost="2 N² D + T N D + 4 N² + K² N + 11 K N",
    space="projected",
    differs="relevance by the prompt's embeddings; at the same relevance nothing up to its rank",
)
