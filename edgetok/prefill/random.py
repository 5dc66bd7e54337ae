"""Random choice at layer 2: the baseline of FastV, and what its paper does before layer 1.

A constant of the number of tokens, the same for every image, in order.
"""

from __future__ import annotations

from dataclasses import replace

from edgetok import tokens
from edgetok.prefill import fastv
from edgetok.prefill.look import Look

SEED = 0


def cut(look: Look, keep: int) -> tokens.Plan:
    return tokens.Plan.gather(tokens.seeded_subset(look.count, keep, SEED), look.count)


METHOD = replace(
    fastv.METHOD,
    name="random",
    paper="baseline",
    summary="keeps tokens drawn once and for all",
    reads=(),
    cut=cut,
    differs="a baseline, of no program",
)
