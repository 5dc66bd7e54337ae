"""ZipCache's salience (arXiv 2405.14256) as a policy: attention per query that could see the row.

The paper asks the last 5 % of rows and a random 5 %, and gives salient rows more bits; here every
20th row is asked, which does not depend on a seed, and the others go. Each decode step is a probe.
The released code divides by the rows after a row; this divides by the probes after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgetok.kv.policy import SCORE, SEEN, Policy

if TYPE_CHECKING:
    from torch import Tensor

STRIDE = 20  # 5 % of the rows each


def ask(rows: int, count: Tensor) -> tuple[Tensor, Tensor]:
    from edgetok.kv.saliency import ask_probes

    return ask_probes(rows, count, STRIDE)


POLICY = Policy(
    name="zipcache-salience",
    paper="arXiv 2405.14256",
    summary="mean attention from probe rows that could see the row",
    differs="evicts what the paper stores in fewer bits, but for 4 first and 16 last rows; probes "
    "at constant steps, not random ones, and a row's attention is divided by the probes behind it, "
    "not the rows (60.6 % of rows)",
    row_state=(SCORE, SEEN),
    asks=ask,
    decay=1.0,
)
