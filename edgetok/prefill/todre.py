"""ToDRE, stage 2 (arXiv 2505.18757): late in the decoder text has taken all that it needs.

All visual tokens leave before layer 7 L / 8 of L; what is left are text rows at their positions.

Frozen form: fixed-budget. The paper waits until attention between text and image falls below a
tenth in both directions; its own table has 100.0 % at 7 L / 8 without looking.
"""

from __future__ import annotations

from edgetok.prefill.method import PrefillMethod
from edgetok.prefill.schedules import Counts, scale, staged


def counts(layers: int, visual: int, ratio: float) -> Counts:
    return staged(layers, visual, {scale(ratio, layers, of=1): 0})


METHOD = PrefillMethod(
    name="todre",
    paper="arXiv 2505.18757",
    verdict="fixed-budget",
    summary="drops all visual tokens late in the decoder",
    positions="kept",
    reads=(),
    ratio=7 / 8,
    ratio_is="depth at which visual tokens leave",
    counts=counts,
)
