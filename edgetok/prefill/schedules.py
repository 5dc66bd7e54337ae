"""How many visual tokens each layer sees: whole numbers, known at export.

Papers number the layers of decoders of 32; `scale` finds the same depth in another one. The first
layer always sees all tokens: something must have been attended to before anything can be judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Counts = tuple[int, ...]
PAPER_LAYERS = 32


def scale(layer: float, layers: int, of: int = PAPER_LAYERS) -> int:
    """The layer at the same depth, between the second and the last.

    >>> [scale(layer, 6) for layer in (2, 8, 16, 24)]
    [1, 2, 3, 4]
    """
    return min(layers - 1, max(1, round(layer * layers / of)))


def share(visual: int, ratio: float) -> int:
    """So many of the tokens, at least 1: rounded down, as references do.

    >>> share(576, 0.5), share(3, 0.1)
    (288, 1)
    """
    return max(1, int(visual * ratio + 1e-9))  # 10 * 0.7 is 7, whatever float64 makes of it


def staged(layers: int, visual: int, cuts: Mapping[int, int]) -> Counts:
    """From each layer on so many tokens: -> one entry per layer.

    >>> staged(4, 16, {1: 8, 3: 0})
    (16, 8, 8, 0)
    """
    left, found = visual, []
    for layer in range(layers):
        left = min(left, cuts.get(layer, left))
        found.append(left)
    return tuple(found)


def at_depths(
    layers: int, visual: int, depths: Sequence[float], ratios: Sequence[float], of: int
) -> Counts:
    """At each depth of a decoder of `of` layers, so large a share of all tokens.

    Where a shallow decoder has one layer for two of them, the later one holds.
    """
    cuts = {}
    for depth, ratio in zip(depths, ratios, strict=True):
        cuts[scale(depth, layers, of)] = share(visual, ratio) if ratio > 0 else 0
    return staged(layers, visual, cuts)


def by_powers(layers: int, visual: int, depths: Sequence[float], ratio: float) -> Counts:
    """At each depth of 32 the same share less: ratio, ratio², …

    >>> by_powers(32, 576, (8, 16, 24), 0.5)[7:26:8]
    (576, 288, 144)
    """
    powers = [ratio ** (j + 1) for j in range(len(depths))]
    return at_depths(layers, visual, depths, powers, PAPER_LAYERS)
