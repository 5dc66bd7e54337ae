"""VisionDrop, stages in the language model (arXiv 2506.22283): attention among visual tokens.

Inputs: attention that all visual rows would have in the layer behind the cut, causal, mean over
heads and rows; the layer's keys, rotated, mean over key/value heads. Reads K rows of attention:
the paper ranks by what visual tokens think of each other.

After layers 8, 16 and 24 of 32: the most attended tokens stay, in order. Of the others every n-th
is a target, each other one joins the target whose key is most alike, and a target becomes itself
plus the mean of its members. Targets come behind; rotary positions are numbered anew.

Frozen form: exact for the stages at the paper's split: 35, 26 and 19 of 48, of which 5, 4 and 3
are targets. A ratio r keeps r, 0.74 r and 0.54 r.
"""

from __future__ import annotations

from edgetok import tokens
from edgetok.prefill.look import Look
from edgetok.prefill.method import PrefillMethod
from edgetok.prefill.schedules import PAPER_LAYERS, Counts, at_depths

QUARTERS = (8, 16, 24)
SHARES = (1.0, 26 / 35, 19 / 35)
TARGETS = 0.15  # of what stays: 5 of 35, 4 of 26, 3 of 19


def counts(layers: int, visual: int, ratio: float) -> Counts:
    return at_depths(layers, visual, QUARTERS, [ratio * s for s in SHARES], PAPER_LAYERS)


def cut(look: Look, keep: int) -> tokens.Plan:
    received = look.behind.from_visual().mean((0, 1))
    targets = max(1, round(TARGETS * keep))
    if keep <= targets:  # a single token: no room for both
        return tokens.Plan.gather(tokens.topk(received, keep), look.count)
    dominant = tokens.topk(received, keep - targets)
    rest = tokens.complement(dominant, look.count)
    anchors = tokens.spread_anchors(rest, targets)
    members = tokens.mask_of(rest, look.count)
    groups = tokens.nearest_anchor(look.behind.visual_keys().mean(0), anchors, members)
    mixed = tokens.Plan.mix(tokens.sum_plus_mean(anchors, groups), anchors)
    return tokens.Plan.gather(dominant, look.count).concat(mixed)


METHOD = PrefillMethod(
    name="visiondrop",
    paper="arXiv 2506.22283",
    verdict="exact",
    summary="ranks visual tokens by each other's attention and merges the rest",
    positions="renumbered",
    reads=("next attention",),
    ratio=35 / 48,
    ratio_is="share that stays at the first quarter; 0.74 and 0.54 of it at the others",
    counts=counts,
    cut=cut,
    differs="nothing",
)
