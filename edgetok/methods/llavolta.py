"""LLaVolta pooling (arXiv 2406.20092): average runs of tokens along the raster.

Inputs: projected tokens [N, D]. A constant mixing matrix [K, N]: token k is the mean of N / K
tokens in a row, from one row of the grid to the next. No token has a single source.

Frozen form: exact for pooling in front of the language model, at budgets that divide N. The paper
may pool at a deeper layer, and trains in stages of shrinking strides, which is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgetok import tokens
from edgetok.methods.method import Method


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    return tokens.Plan.mix(tokens.area_pooling((1, features.n_tokens), budget))


def budgets(n_tokens: int, grid: tuple[int, int]) -> Sequence[int]:
    return [k for k in range(1, n_tokens + 1) if n_tokens % k == 0]


METHOD = Method(
    name="llavolta",
    paper="arXiv 2406.20092",
    where="behind the tower",
    needs=(),
    verdict="exact",
    summary="averages runs of tokens along the raster",
    reduce=reduce,
    budgets=budgets,
    space="projected",
    cost="2 K N D + 4 K N",
    differs="nothing",
)
