"""QuoTA (arXiv 2503.08689): each frame gets tokens by its weight, and is resized to so many.

Inputs: projected tokens [P * N, D] of P frames; a weight for each of them: given by the user
(`quota`, all alike if none are), or from the question (`quota-text`): embeddings [T, D] of the
prompt's tokens with a mask [T] of the user's own text.

Of K tokens a frame has a share in proportion to its weight; what rounding down leaves goes to the
largest remainders. The frame's grid of tokens is resampled bilinearly to its share: bands of equal
height, each divided evenly, as near to a square as the grid is. A share of more tokens than the
frame has interpolates between them, as in the paper; one of none leaves the frame out. Frame after
frame, raster order in each. A token's index is the patch that its centre lies in.

Frozen form: fixed budget. The reference rounds every share down and resizes to the nearest square
below or above, so that its total varies by a few tokens; here it is K. Where the paper asks a
second model how much a frame has to do with the question, `quota` takes any weights and
`quota-text`, an own formulation, compares a frame's tokens with the question's as the language
model reads both: the mean cosine, in standard deviations over the frames, through a softmax.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgetok import names, tokens
from edgetok.methods.method import Method

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_DEVIATION = 1e-4  # of mean cosines that count as different


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    return resize_frames(features, features.probe(names.PICTURE_WEIGHTS), budget)


def reduce_by_text(features: tokens.Features, budget: int) -> tokens.Plan:
    return resize_frames(features, weigh_by_text(features), budget)


def weigh_by_text(features: tokens.Features) -> Tensor:
    """What each frame has to do with the question, of sum 1: -> [P]."""
    relevance = tokens.text_relevance(features.x, *features.question)
    means = relevance.reshape(features.pictures, -1).mean(1)
    apart = means - means.mean()
    deviation = (apart * apart).mean().sqrt().clamp(min=SMALLEST_DEVIATION)
    return (apart / deviation).softmax(0)


def resize_frames(features: tokens.Features, weights: Tensor, budget: int) -> tokens.Plan:
    """`budget` tokens of all frames, shared by `weights` [P]."""
    counts = tokens.quotas(weights, budget)
    return tokens.resample_frames(counts, features.grid, budget)


METHOD = Method(
    name="quota",
    paper="arXiv 2503.08689",
    where="behind the tower",
    needs=(names.PICTURE_WEIGHTS,),
    verdict="fixed-budget",
    summary="resizes each frame to its share of the budget, by weights that are given",
    reduce=reduce,
    space="projected",
    shares=True,
    differs="K in all, where theirs rounds each frame down to a square; read beside it only",
)

BY_TEXT = Method(
    name="quota-text",
    paper="arXiv 2503.08689",
    where="behind the tower",
    needs=names.OF_PROMPT,
    verdict="own formulation",
    summary="resizes each frame to its share of the budget, by its likeness to the question",
    reduce=reduce_by_text,
    space="projected",
    shares=True,
)
