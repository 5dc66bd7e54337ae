"""The buffers of a ThinK cache: what each layer's rows are kept in, and how many bytes that is.

Values are whole, and so are the last keys, in a ring. Keys that leave it give up the channels that
the prompt's last queries hardly used.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from edgetok.bundle.kivi import BYTES, Place

NAME = "think"
RING_ROWS = 32  # last keys that are whole, as in the released code
PRUNED, OF = 2, 5  # two channels of five go, as in the released code


def count_channels(head_dim: int) -> int:
    """How many channels of so many stay unless a number is given.

    >>> count_channels(64)
    39
    """
    return head_dim - PRUNED * head_dim // OF


@dataclass(frozen=True)
class ThinkShape:
    """Constants of a ThinK cache.

    Args:
        slots: rows that a layer can hold.
        ring: last rows whose keys are whole, fewer than `slots`.
        channels: that the other keys keep.
    """

    layers: int
    kv_heads: int
    head_dim: int
    slots: int
    channels: int
    ring: int = RING_ROWS

    written = ("key", "value", "ring_key")  # what a step writes
    waiting = ()  # nothing waits to be packed: each step prunes the key that leaves the ring

    @property
    def region(self) -> int:
        """Rows of pruned keys."""
        return max(1, self.slots - self.ring)

    @property
    def buffers(self) -> dict[str, Place]:
        """Every buffer of one layer: dtype and shape by the part of it that it holds."""
        return {
            "key": ("float32", [1, self.kv_heads, self.region, self.channels]),
            "value": ("float32", [1, self.kv_heads, self.slots, self.head_dim]),
            "ring_key": ("float32", [1, self.kv_heads, self.ring, self.head_dim]),
            "channels": ("int32", [1, self.kv_heads, self.channels]),
        }

    @property
    def group(self) -> dict[str, Place]:
        """What a full ring becomes: nothing, there is no flush."""
        return {}

    @property
    def bytes(self) -> int:
        """Of all layers."""
        one_layer = self.buffers.values()
        return self.layers * sum(BYTES[dtype] * prod(shape) for dtype, shape in one_layer)
