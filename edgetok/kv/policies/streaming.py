"""StreamingLLM (arXiv 2309.17453): the first rows and a window of the last, numbered by place.

The paper's ring drops a row at each step and rotates all keys; here the window shrinks by an eighth
of the slots when it is full, and kept keys are turned back to their new places once.
"""

from __future__ import annotations

from edgetok.kv.policy import Policy

POLICY = Policy(
    name="streaming",
    paper="arXiv 2309.17453",
    summary="first rows and a window of the last ones; never ends",
    differs="drops a stretch at a time, not a row",
    positions="renumbered",
    recent=None,
)
