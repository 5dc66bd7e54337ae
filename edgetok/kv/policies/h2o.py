"""H2O (arXiv 2306.14048): rows that received most attention since they came, and the last ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgetok.kv.policy import SCORE, Policy

if TYPE_CHECKING:
    from torch import Tensor


def ask(rows: int, count: Tensor) -> tuple[Tensor, Tensor]:
    from edgetok.kv.saliency import ask_all

    return ask_all(rows, count)


POLICY = Policy(
    name="h2o",
    paper="arXiv 2306.14048",
    summary="what received most attention in all, and the last rows",
    differs="drops a stretch at a time, not a row; attention is averaged over a group's heads",
    row_state=(SCORE,),
    asks=ask,
    decay=1.0,
)
