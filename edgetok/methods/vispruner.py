"""VisPruner (arXiv 2412.01818 v2): half by CLS attention, half by what resembles nothing else.

Inputs: features [N, V]; CLS attention [N] of the feature layer, mean over heads.

K // 2 patches have the highest CLS attention. The others, by descending attention, are split into
even and odd places; the 8 even ones that most resemble an odd one go, and so on until the list
is as short as the budget wants. Raster order.

Frozen form: exact up to rounding, since the number of rounds depends on N and K alone: 64 for 576
to 64 tokens, unrolled. Rounding decides which tokens the diverse half holds, at the authors' too:
their program in half and in single precision shares a fifth to a third of that half with itself.
Cosines are compared on a grid of 1/4096, made of whole numbers that every runtime adds alike: over
so many rounds one that rounds otherwise would change what is kept.
"""

from __future__ import annotations

from edgetok import names, tokens
from edgetok.methods.method import Method

DROPPED_PER_ROUND = 8


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    n, important = features.n_tokens, budget // 2
    chosen = tokens.topk_mask(features.cls_attention, important)
    rest = tokens.order(tokens.exclude(features.cls_attention, chosen))[: n - important]
    similar = tokens.repeatable_similarity(features.x)
    diverse = tokens.dedup_halving(similar, rest, budget - important, DROPPED_PER_ROUND)
    kept = tokens.raster_indices(chosen | tokens.mask_of(diverse, n), budget)
    return tokens.Plan.gather(kept, n)


METHOD = Method(
    name="vispruner",
    paper="arXiv 2412.01818 v2",
    where="behind the tower",
    needs=(names.CLS_ATTENTION,),
    verdict="exact",
    summary="keeps half by CLS attention, half by how little they resemble others",
    reduce=reduce,
    cost="6 N² D + 16 N² + 0.01 N³",
    ranked=(names.CLS_ATTENTION,),
    differs=(
        "rounding alone, which decides the diverse half: 60 to 67 % of all and 19 to 34 % "
        "of that half, as many as their own half precision keeps of their single precision"
    ),
)
