"""YOPO (arXiv 2410.06169): visual rows are not computed as text is.

Nothing is taken away. In the second half of the decoder visual rows skip the MLP, and in the last
quarter attention too: there they are keys and values of the rows they have, and no queries.

Frozen form: own formulation of two of the paper's four cuts, at constants; it finds layers by
calibration. Left out: attention of visual rows to neighbours alone, and inactive heads.
"""

from __future__ import annotations

from edgetok.prefill.method import PrefillMethod, Skip
from edgetok.prefill.schedules import Counts

QUARTER = 0.25


def counts(layers: int, visual: int, ratio: float) -> Counts:
    return (visual,) * layers


def skips(layers: int, ratio: float) -> tuple[Skip, ...]:
    late = max(ratio, 1 - QUARTER) * layers
    return tuple(
        "layer" if number >= late else "mlp" if number >= ratio * layers else ""
        for number in range(layers)
    )


METHOD = PrefillMethod(
    name="yopo",
    paper="arXiv 2410.06169",
    verdict="own formulation",
    summary="visual rows skip the MLP in the second half and all of the last quarter",
    positions="kept",
    reads=(),
    ratio=0.5,
    ratio_is="depth from which visual rows skip the MLP",
    counts=counts,
    skips=skips,
)
