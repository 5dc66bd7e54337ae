"""PyramidKV (arXiv 2406.02069): SnapKV with more rows in early layers than in late ones.

With C slots on average and a window w: the last layer has (C - w) / 20 slots beside the window, the
first as many more as that is fewer, and the layers between fall in equal steps. The first layer
gets no more slots than the prompt has rows, and all get C for prompts shorter than 2 (C - w).

Frozen: the prompt is the longest that the ladder takes, since a layer's slots are constants.
"""

from __future__ import annotations

from dataclasses import replace

from edgetok.kv.policies import snapkv

BETA = 20


def fall(slots: int, layers: int, window: int, prompt_rows: int) -> list[int]:
    """Slots of each layer.

    >>> fall(160, 4, 32, 200), fall(160, 4, 32, 300)
    ([160, 160, 160, 160], [282, 201, 120, 39])
    """
    beside = slots - window
    if prompt_rows < 2 * beside:
        return [slots] * layers
    most = min(2 * beside - max(0, beside) // BETA, prompt_rows - window)
    least = 2 * beside - most
    step = (most - least) // max(1, layers - 1)
    return [most - layer * step + window for layer in range(layers)]


POLICY = replace(
    snapkv.POLICY,
    name="pyramidkv",
    paper="arXiv 2406.02069",
    summary="SnapKV with slots that fall from layer to layer",
    differs=f"{snapkv.POLICY.differs}; slots are those for the ladder's longest prompt",
    capacities=fall,
)
