"""FastV (arXiv 2403.06764): keep what the last token attends to in the layer before the third.

Inputs: attention of the last text row in layer 1, mean over heads; the K visual columns.

Before layer 2, at any depth of the decoder, the share R of highest attention stays, in order and
at its rotary positions.

Frozen form: exact; the paper's mode that shortens, not the one that masks.
"""

from __future__ import annotations

from edgetok import tokens
from edgetok.prefill.look import Look
from edgetok.prefill.method import PrefillMethod
from edgetok.prefill.schedules import Counts, share, staged

LAYER = 2


def counts(layers: int, visual: int, ratio: float) -> Counts:
    return staged(layers, visual, {min(LAYER, layers - 1): share(visual, ratio)})


def cut(look: Look, keep: int) -> tokens.Plan:
    scores = look.before.from_last().mean(0)
    return tokens.Plan.gather(tokens.topk(scores, keep), look.count)


METHOD = PrefillMethod(
    name="fastv",
    paper="arXiv 2403.06764",
    verdict="exact",
    summary="keeps what the last token attends to in the second layer",
    positions="kept",
    reads=("previous attention",),
    ratio=0.5,
    ratio_is="share that stays from layer 2 on",
    counts=counts,
    cut=cut,
    differs="nothing",
)
