"""Average pooling to exactly K cells: the baseline among merging methods.

Inputs: features [N, V] on a grid of patches. A constant mixing matrix [K, N]; no token has a
single source, so all indices are -1.

Frozen form: own formulation. LLaVolta (arXiv 2406.20092) pools along the raster line by whole
strides, which can make N/2, N/3, ... tokens only; cells here are two-dimensional and come in any
number (`tokens.area_pooling`).
"""

from __future__ import annotations

from edgetok import tokens
from edgetok.methods.method import Method


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    return tokens.Plan.mix(tokens.area_pooling(features.grid, budget))


METHOD = Method(
    name="pool",
    paper="baseline",
    where="behind the tower",
    needs=(),
    verdict="own formulation",
    summary="averages the patches of K cells of nearly equal area",
    reduce=reduce,
    cost="2 K N D + 4 K N",
    differs="a baseline, of no program",
)
