"""PyramidKV (arXiv 2406.02069): SnapKV with more rows in early layers than in late ones.

With C slots on average and a window w: the last layer has (C - w) / 20 slots beside the window, the
first as many more as that is fewer, and the layers between fall in equal steps. A prompt that fits
into its layer's slots stays whole, so nothing else depends on how long it is.
"""

from __future__ import annotations

from dataclasses import replace

from edgetok.kv.policies import snapkv

BETA = 20


def fall(slots: int, layers: int, window: int) -> list[int]:
    """Slots of each layer."""
    beside = slots - window
    least = max(0, beside) // BETA
    most = 2 * beside - least
    step = (most - least) // max(1, layers - 1)
    return [most - layer * step + window for layer in range(layers)]


POLICY = replace(
    snapkv.POLICY,
    name="pyramidkv",
    paper="arXiv 2406.02069",
    summary="SnapKV with slots that fall from layer to layer",
    capacities=fall,
)
