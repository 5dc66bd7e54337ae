"""SparseVLM (arXiv 2410.04417, version 2): what the text that speaks of the image attends to.

Inputs: attention of the text rows behind the image in the layer before the cut, mean over heads;
the rows that entered the first layer, visual [K0, D] and text [T, D].

A text row is a rater if its share in the visual rows' softmax over text, their mean, is at least
the mean of all text rows. Before layers 3, 7 and 16 of 32 the tokens that raters attend to most
stay, in order and at their positions.

Frozen form: fixed-budget. Constant counts are the reference's: 300, 200 and 118 of 576 are its
setting for 192 tokens, and a ratio r keeps r, 0.66 r and 0.39 r. Left out: the choice of 14 heads
and the division by attention of positions alone, which version 2 adds.
"""

from __future__ import annotations

from edgetok import tokens
from edgetok.prefill.look import Look
from edgetok.prefill.method import PrefillMethod
from edgetok.prefill.schedules import PAPER_LAYERS, Counts, at_depths

LAYERS = (3, 7, 16)
SHARES = (1.0, 200 / 300, 118 / 300)
HIDDEN = -1e9


def counts(layers: int, visual: int, ratio: float) -> Counts:
    return at_depths(layers, visual, LAYERS, [ratio * s for s in SHARES], PAPER_LAYERS)


def cut(look: Look, keep: int) -> tokens.Plan:
    likeness = look.visual_input @ look.text_input.T  # [K0, T]
    padding = (1 - look.is_text) * HIDDEN
    relevance = (likeness + padding).softmax(1).mean(0) * look.is_text
    raters = (relevance >= relevance.sum() / look.is_text.sum()).float() * look.is_text
    scores = raters @ look.before.from_text().mean(0)  # their mean but for a factor
    return tokens.Plan.gather(tokens.topk(scores, keep), look.count)


METHOD = PrefillMethod(
    name="sparsevlm",
    paper="arXiv 2410.04417",
    verdict="fixed-budget",
    summary="keeps what those text tokens attend to that resemble the image",
    positions="kept",
    reads=("previous attention",),
    ratio=0.52,
    ratio_is="share that stays at the first of three cuts; 0.66 and 0.39 of it at the others",
    counts=counts,
    cut=cut,
)
