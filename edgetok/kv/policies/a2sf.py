"""A2SF (arXiv 2407.20485): attention received, old attention forgotten step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgetok.kv.policy import SCORE, Policy

if TYPE_CHECKING:
    from torch import Tensor

ALPHA = 0.95


def ask(rows: int, count: Tensor) -> tuple[Tensor, Tensor]:
    from edgetok.kv.saliency import ask_decaying

    return ask_decaying(rows, count, ALPHA)


POLICY = Policy(
    name="a2sf",
    paper="arXiv 2407.20485",
    summary="what received most attention lately, a step back weighing 0.95 as much",
    differs="drops a stretch at a time, not a row",
    row_state=(SCORE,),
    sinks=0,
    asks=ask,
    decay=ALPHA,
)
