"""AdaToken-3D (arXiv 2505.12782): PyramidDrop's cut at constants that an analysis gives.

Inputs: attention of the last text row in the layer before the cut, mean over heads.

Behind layers 8, 16 and 24 of 32 a half, a quarter and an eighth of the tokens stay, in order.

Frozen form: exact for given constants, which are those of the released code; its analysis of the
flow of attention is the planner's business here. Positions are numbered anew, as in PyramidDrop.
"""

from __future__ import annotations

from dataclasses import replace

from edgetok import tokens
from edgetok.prefill import pyramiddrop
from edgetok.prefill.look import Look


def cut(look: Look, keep: int) -> tokens.Plan:
    scores = look.before.from_last().mean(0)
    return tokens.Plan.gather(tokens.topk(scores, keep), look.count)


METHOD = replace(
    pyramiddrop.METHOD,
    name="adatoken-3d",
    paper="arXiv 2505.12782",
    summary="halves at each quarter what the last token attended to in the layer before",
    reads=("previous attention",),
    cut=cut,
    differs="",
)
