"""The buffers of a ZipCache: what each layer's rows are kept in, and how many bytes that is.

New rows wait as float32 in a ring. When it is full, its salient rows go to the high tier and the
others to the low one; of a prompt, all rows do.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from edgetok.bundle.kivi import BYTES, RING_ROWS, Place

NAME = "zipcache"
BITS = {"high": 4, "low": 2}
SALIENT, OF = 3, 5  # three rows of five are salient, rounded to the nearest


def count_salient(rows: int) -> int:
    """How many of so many rows go to the high tier.

    >>> count_salient(32)
    19
    """
    return (2 * SALIENT * rows + OF) // (2 * OF)


@dataclass(frozen=True)
class ZipShape:
    """Constants of a ZipCache.

    Args:
        slots: rows that a layer can hold, tiers and ring together.
        prompt: rows of the longest prompt.
    """

    layers: int
    kv_heads: int
    head_dim: int
    slots: int
    prompt: int
    ring: int = RING_ROWS

    written = ("ring_key", "ring_value", "ring_score")  # what a step writes
    waiting = (
        *written,
        *(f"{tier}_{kind}" for tier in BITS for kind in ("key_least", "key_step", "divisor")),
    )  # what the flush graph reads

    @property
    def tiers(self) -> dict[str, int]:
        """Slots of each tier: enough for a prompt of any length and what may follow it."""
        added = count_salient(self.ring)
        counts = [
            (count_salient(rows), rows, max(0, self.slots - rows - 1) // self.ring)
            for rows in range(1, self.prompt + 1)
        ]
        return {
            "high": max(high + times * added for high, _, times in counts),
            "low": max(n - high + times * (self.ring - added) for high, n, times in counts),
        }

    @property
    def buffers(self) -> dict[str, Place]:
        """Every buffer of one layer: dtype and shape by the part of it that it holds."""
        of_channel: Place = ("float32", [1, self.kv_heads, 1, self.head_dim])
        found: dict[str, Place] = {}
        for tier, slots in self.tiers.items():
            found |= self._rows(tier, slots)
            found |= {f"{tier}_{kind}": of_channel for kind in ("key_least", "key_step", "divisor")}
        row: Place = ("float32", [1, self.kv_heads, self.ring, self.head_dim])
        score: Place = ("float32", [1, self.kv_heads, self.ring])
        found |= {"ring_key": row, "ring_value": row, "ring_score": score}
        return found | {"filled": ("int32", [2])}

    @property
    def group(self) -> dict[str, Place]:
        """What one full ring becomes in the tiers."""
        salient = count_salient(self.ring)
        return self._rows("high", salient) | self._rows("low", self.ring - salient)

    @property
    def bytes(self) -> int:
        """Of all layers: buffers, and the rows on their way into the tiers."""
        one_layer = [*self.buffers.values(), *self.group.values()]
        return self.layers * sum(BYTES[dtype] * prod(shape) for dtype, shape in one_layer)

    def _rows(self, tier: str, rows: int) -> dict[str, Place]:
        width = self.head_dim * BITS[tier] // 8
        packed: Place = ("int8", [1, self.kv_heads, rows, width])
        of_row: Place = ("float32", [1, self.kv_heads, rows, 1])
        kinds = ("key", "value", "value_least", "value_step")
        places = (packed, packed, of_row, of_row)
        return {f"{tier}_{kind}": place for kind, place in zip(kinds, places, strict=True)}
