"""ATP-LLaVA (arXiv 2412.00447) without its trained modules: salience beside an even grid.

Inputs: attention in the layer before the cut, mean over heads: of all visual rows to each other,
causal, and of the text rows behind the image to them. Reads K rows of attention.

The score is the mean of what a token receives from visual rows and from text rows, each as a share
of its largest. A quarter of what stays are tokens at even steps, whatever their score; the others
are those with the highest. Cuts at each quarter of the depth; rows keep order and positions.

Frozen form: own formulation. The paper learns weights and a threshold per image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgetok import tokens
from edgetok.prefill.look import Look
from edgetok.prefill.method import PrefillMethod
from edgetok.prefill.schedules import Counts, by_powers

if TYPE_CHECKING:
    from torch import Tensor

QUARTERS = (8, 16, 24)
EVEN = 0.25
SMALLEST = 1e-12


def counts(layers: int, visual: int, ratio: float) -> Counts:
    return by_powers(layers, visual, QUARTERS, ratio)


def cut(look: Look, keep: int) -> tokens.Plan:
    own = _relative(look.before.from_visual().mean((0, 1)))
    asked = _relative(look.before.from_text().mean(0).sum(0))
    spread = tokens.spread_indices(look.count, int(EVEN * keep))
    forced = tokens.mask_of(spread, look.count)
    return tokens.Plan.gather(tokens.forced_topk((own + asked) / 2, forced, keep), look.count)


def _relative(received: Tensor) -> Tensor:
    return received / received.max().clamp(min=SMALLEST)


METHOD = PrefillMethod(
    name="atp-llava",
    paper="arXiv 2412.00447",
    verdict="own formulation",
    summary="keeps an even grid and what visual and text tokens attend to",
    positions="kept",
    reads=("previous attention",),
    ratio=0.6,
    ratio_is="share that stays at each quarter",
    counts=counts,
    cut=cut,
)
