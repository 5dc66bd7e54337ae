"""VisionDrop, encoder stage (arXiv 2506.22283): VisionZip's template with 42 dominant tokens to 6.

Inputs: those of VisionZip: features [N, V]; the CLS row [1, V]; CLS attention [N] and keys [N, H]
of the same layer, mean over heads.

Of K tokens, round(6 K / 48) and at least 1 are contextual, centre plus mean of its members; the
others are the CLS row and the patches it attends to most. Sizes sum to N + 1.

Frozen form: exact for the encoder stage at the paper's split of 48. The stages inside the language
model, which rank by attention among visual tokens, are left out.
"""

from __future__ import annotations

from dataclasses import replace

from edgetok import tokens
from edgetok.methods import visionzip


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    contextual = max(1, round(budget * 6 / 48))
    return visionzip.keep_and_merge(features, budget - contextual, contextual)


METHOD = replace(
    visionzip.METHOD,
    name="visiondrop",
    paper="arXiv 2506.22283",
    summary="VisionZip with an eighth of the tokens contextual",
    reduce=reduce,
    cost="2 K N D + 0.25 K N H + 3 K N",
    differs="nothing",
)
