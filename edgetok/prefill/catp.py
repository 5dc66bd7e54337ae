"""CATP, stage 2 (arXiv 2508.07871): what the question begins to look at, and what it resembles.

Inputs: attention of the last text row in the layers before and behind the cut, mean over heads;
hidden visual rows [K, D] and text rows [T, D] behind the image.

The score is the rise of attention from one layer to the next, as a share of the largest, plus 0.6
times the cosine with the mean text row. Before layer 7 of 32 the highest stay, in order and at
their positions.

Frozen form: own formulation of the paper's first cut; there is no code. Its second cut prunes the
query's image against the kept demonstrations, of which a single question has none. The rise is
divided by its largest, since how the paper weighs it against a cosine is not stated.
"""

from __future__ import annotations

from edgetok import tokens
from edgetok.prefill.look import Look
from edgetok.prefill.method import PrefillMethod
from edgetok.prefill.schedules import Counts, scale, share, staged

LAYER = 7
TEXT_WEIGHT = 0.6
SMALLEST = 1e-12


def counts(layers: int, visual: int, ratio: float) -> Counts:
    return staged(layers, visual, {scale(LAYER, layers): share(visual, ratio)})


def cut(look: Look, keep: int) -> tokens.Plan:
    rise = (look.behind.from_last() - look.before.from_last()).mean(0).clamp(min=0)
    meaning = (look.text * tokens.shares(look.is_text).unsqueeze(1)).sum(0, keepdim=True)
    suits = tokens.cls_similarity(look.visual, meaning)
    scores = rise / rise.max().clamp(min=SMALLEST) + TEXT_WEIGHT * suits
    return tokens.Plan.gather(tokens.topk(scores, keep), look.count)


METHOD = PrefillMethod(
    name="catp",
    paper="arXiv 2508.07871",
    verdict="own formulation",
    summary="keeps what the last token turns to and what resembles the text",
    positions="kept",
    reads=("previous attention", "next attention"),
    ratio=0.5,
    ratio_is="share that stays from a fifth of the depth on",
    counts=counts,
    cut=cut,
)
