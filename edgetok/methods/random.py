"""Random choice: the baseline that every method must beat.

Inputs: features [N, V], of which only N matters. The kept indices are a constant of the seed, the
same for every image, in raster order; a smaller budget keeps a part of what a larger one keeps.

Frozen form: own formulation, there is no reference. It draws once at export, not once per image.
"""

from __future__ import annotations

from edgetok import tokens
from edgetok.methods.method import Method


def with_seed(seed: int) -> Method:
    """The method that draws with this seed, 0 or more."""

    def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
        n = features.n_tokens
        return tokens.Plan.gather(tokens.seeded_subset(n, budget, seed), n)

    return Method(
        name="random",
        paper="baseline",
        where="behind the tower",
        needs=(),
        verdict="own formulation",
        summary="keeps a random choice of patches, fixed by the seed",
        reduce=reduce,
        reseed=with_seed,
        cost="0",
        differs="a baseline, of no program",
    )


METHOD = with_seed(0)
