"""LoCoCo (arXiv 2406.05317) without its learned mixing: the heavy hitters, and 16 last rows.

The paper mixes what it would drop into learned convolutions (its eta); no weights of it were
published. At eta 0 those slots take the next heavy hitters, so all slots go by attention received,
and only the buffer of 16 rows that it fills between two compressions stays whatever it received.
"""

from __future__ import annotations

from edgetok.kv.policies import h2o
from edgetok.kv.policy import SCORE, Policy

POLICY = Policy(
    name="lococo",
    paper="arXiv 2406.05317",
    summary="heavy hitters alone (eta 0: nothing is mixed)",
    exact="eta 0; the published method mixes dropped rows by learned weights",
    planes=(SCORE,),
    sinks=0,
    asks=h2o.ask,
    decay=1.0,
)
