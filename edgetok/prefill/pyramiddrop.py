"""PyramidDrop (arXiv 2410.17247): a share λ stays at each quarter of the depth.

Inputs: attention that the last text row would have in the layer behind the cut, mean over heads.

After layers 8, 16 and 24 of 32, λ, λ² and λ³ of the tokens stay, in order; rotary positions are
numbered anew after each cut.

Frozen form: exact.
"""

from __future__ import annotations

from edgetok import tokens
from edgetok.prefill.look import Look
from edgetok.prefill.method import PrefillMethod
from edgetok.prefill.schedules import Counts, by_powers

QUARTERS = (8, 16, 24)


def counts(layers: int, visual: int, ratio: float) -> Counts:
    return by_powers(layers, visual, QUARTERS, ratio)


def cut(look: Look, keep: int) -> tokens.Plan:
    scores = look.behind.from_last().mean(0)
    return tokens.Plan.gather(tokens.topk(scores, keep), look.count)


METHOD = PrefillMethod(
    name="pyramiddrop",
    paper="arXiv 2410.17247",
    verdict="exact",
    summary="keeps a share of what the last token attends to at each quarter of the depth",
    positions="renumbered",
    reads=("next attention",),
    ratio=0.5,
    ratio_is="share that stays at each quarter",
    counts=counts,
    cut=cut,
    differs="nothing",
)
