"""Implicit multimodal alignment (arXiv 2405.16700): visual rows change slowly, so skip every other.

Nothing is taken away. From a given depth on, visual rows skip the MLP in every second layer.

Frozen form: fixed-budget, at constants; the paper tries several starts and intervals.
"""

from __future__ import annotations

from dataclasses import replace

from edgetok.prefill import yopo
from edgetok.prefill.method import Skip
from edgetok.prefill.schedules import scale

INTERVAL = 2


def skips(layers: int, ratio: float) -> tuple[Skip, ...]:
    first = scale(ratio, layers, of=1)
    return tuple(
        "mlp" if number >= first and (number - first) % INTERVAL == 0 else ""
        for number in range(layers)
    )


METHOD = replace(
    yopo.METHOD,
    name="ima",
    paper="arXiv 2405.16700",
    verdict="fixed-budget",
    summary="visual rows skip the MLP in every second layer",
    ratio=0.25,
    skips=skips,
)
