"""H2O (arXiv 2306.14048): rows that received most attention since they came, and the last ones.

Half of what stays are the last rows, as in the released code (`heavy_ratio` and `recent_ratio` are
alike); first rows have no place of their own.
"""

from __future__ import annotations

from fractions import Fraction
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
    differs="drops a stretch at a time, not a row; a group's heads choose together (95.5 % of rows "
    "at two heads a group, all of them at one)",
    row_state=(SCORE,),
    sinks=0,
    recent=Fraction(1, 2),
    asks=ask,
    decay=1.0,
)
