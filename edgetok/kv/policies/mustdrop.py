"""MustDrop's decode cache (arXiv 2411.10803): answers read final survivors alone.

Between its first and its last cut a layer's cache would hold visual tokens that a later cut takes
away. After the prompt those rows go too, so that every layer from the one whose attention made the
first cut on holds the same tokens; layers before it stay whole. Nothing goes during the answer, so
this is no rule for a full cache: it comes with `--prefill mustdrop`, which decides everything.
"""

from __future__ import annotations

from edgetok.kv.policy import Policy

POLICY = Policy(
    name="mustdrop",
    paper="arXiv 2411.10803",
    summary="with `--prefill mustdrop`: its final survivors, from the first cut on",
    differs="nothing in which layers hold what: of 32, 0 and 1 stay whole; else as `--prefill`'s",
    sinks=0,
    recent=None,
)
