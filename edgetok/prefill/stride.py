"""Every n-th token at layer 2: the baseline that covers the picture evenly."""

from __future__ import annotations

from dataclasses import replace

from edgetok import tokens
from edgetok.prefill import fastv
from edgetok.prefill.look import Look


def cut(look: Look, keep: int) -> tokens.Plan:
    return tokens.Plan.gather(tokens.spread_indices(look.count, keep), look.count)


METHOD = replace(
    fastv.METHOD,
    name="stride",
    paper="baseline",
    summary="keeps tokens at even steps",
    reads=(),
    cut=cut,
    differs="a baseline, of no program",
)
