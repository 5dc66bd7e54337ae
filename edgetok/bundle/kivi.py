"""The buffers of a KIVI cache: what each layer's rows are kept in, and how many bytes that is.

Rows wait as float32 in a ring. When it is full, its rows go as one group into the region, where
keys have a range per channel of the group and values one per row and head.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

BITS = {"kivi": 2, "kivi4": 4}  # of a number in the region, by precision of the cache
RING_ROWS = 32  # the paper's group
BYTES = {"int8": 1, "int32": 4, "float32": 4}

Place = tuple[str, list[int]]  # dtype and shape


@dataclass(frozen=True)
class KiviShape:
    """Constants of a KIVI cache.

    Args:
        slots: rows that a layer can hold, region and ring together.
        ring: rows that wait, as many as a group of the region has.
        bits: of a number in the region.
    """

    layers: int
    kv_heads: int
    head_dim: int
    slots: int
    ring: int
    bits: int

    written = ("ring_key", "ring_value")  # what a step writes
    waiting = written  # what the flush graph reads

    @property
    def region(self) -> int:
        """Rows of the region: all groups that are full before the last row waits."""
        return max(1, (self.slots - 1) // self.ring) * self.ring

    @property
    def buffers(self) -> dict[str, Place]:
        """Every buffer of one layer: dtype and shape by the part of it that it holds."""
        waiting = [1, self.kv_heads, self.ring, self.head_dim]
        rings: dict[str, Place] = {
            "ring_key": ("float32", waiting),
            "ring_value": ("float32", waiting),
        }
        return self._groups(self.region) | rings

    @property
    def group(self) -> dict[str, Place]:
        """What one full ring becomes in the region."""
        return self._groups(self.ring)

    @property
    def bytes(self) -> int:
        """Of all layers: buffers, and the groups on their way into the region."""
        one_layer = [*self.buffers.values(), *self.group.values()]
        return self.layers * sum(BYTES[dtype] * prod(shape) for dtype, shape in one_layer)

    def _groups(self, rows: int) -> dict[str, Place]:
        packed: Place = ("int8", [1, self.kv_heads, rows, self.head_dim * self.bits // 8])
        of_group: Place = ("float32", [1, self.kv_heads, rows // self.ring, self.head_dim])
        of_row: Place = ("float32", [1, self.kv_heads, rows, 1])
        return {
            "key": packed,
            "value": packed,
            "key_least": of_group,
            "key_step": of_group,
            "value_least": of_row,
            "value_step": of_row,
        }
