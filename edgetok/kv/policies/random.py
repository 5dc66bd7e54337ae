"""`random`: the baseline. Every row draws a number when it comes; the highest stay.

So what is left between the first and the last rows is a uniform sample of all that came.
"""

from __future__ import annotations

from edgetok.kv.policy import SCORE, Policy

POLICY = Policy(
    name="random",
    paper="edgetok",
    summary="random rows beside the first and the last ones: the baseline",
    differs="ours",
    row_state=(SCORE,),
    drawn=True,
)
