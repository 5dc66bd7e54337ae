"""KIVI (arXiv 2402.02750): keys in few bits per channel of a group of rows, values per row.

Keys wait in float32 until R of them are there, and are packed together: each channel has a range
over the group. Values wait for R rows too, but leave one by one: row n is packed when row n + R
comes, each 32 of its channels with a range of their own. Everything has constant shapes; the host
files a group of keys every R steps, a step packs the value that leaves.

Exact: a step still reads the value that leaves it as it was, as the released code does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgetok.kv.stores.buffers import Filing, Place, Store
from edgetok.kv.stores.levels import find_range, from_levels, to_levels
from edgetok.kv.stores.ring import rows_of_slots, write_row

if TYPE_CHECKING:
    from torch import Tensor

BITS = {"kivi": 2, "kivi4": 4}  # of a packed number, by name of the scheme
RING_ROWS = 32  # the paper's group
RANGE_CHANNELS = 32  # of a value that share a range, as in the released code
STORE = Store(
    names=tuple(BITS),
    paper="arXiv 2402.02750",
    summary="keys and values in 2 or 4 bits, the last rows in float32",
    differs="nothing at heads that 32 divides; others take fewer channels to a range",
)


def channels_of_range(head_dim: int, bits: int) -> int:
    """How many channels of a value share a range: the most up to 32 that divide a head evenly.

    >>> channels_of_range(128, 2), channels_of_range(80, 2)
    (32, 20)
    """
    fits = (n for n in range(RANGE_CHANNELS, 0, -1) if not (head_dim % n or n * bits % 8))
    return next(fits)


@dataclass(frozen=True)
class KiviShape:
    """Constants of a KIVI cache.

    Args:
        slots: rows that a layer can hold, groups and ring together.
        ring: rows that wait, as many as a group of keys has.
        bits: of a packed number.
    """

    layers: int
    kv_heads: int
    head_dim: int
    slots: int
    ring: int
    bits: int

    filing: ClassVar[Filing] = "groups"  # what the host does with a full ring of keys
    written = ("value", "value_least", "value_step", "ring_key", "ring_value")  # by a step
    waiting = ("ring_key",)  # what the flush graph reads

    @property
    def group_rows(self) -> int:
        """Keys of all groups that are full before the last row waits."""
        return max(1, (self.slots - 1) // self.ring) * self.ring

    @property
    def value_rows(self) -> int:
        """Values that have left the ring when the cache is full."""
        return max(1, self.slots - self.ring)

    @property
    def buffers(self) -> dict[str, Place]:
        """Every buffer of one layer: dtype and shape by the part of it that it holds."""
        waiting: Place = ("float32", [1, self.kv_heads, self.ring, self.head_dim])
        rings = {"ring_key": waiting, "ring_value": waiting}
        return self._keys(self.group_rows) | self._values(self.value_rows) | rings

    @property
    def group(self) -> dict[str, Place]:
        """What one full ring of keys becomes."""
        return self._keys(self.ring)

    def _keys(self, rows: int) -> dict[str, Place]:
        of_group: Place = ("float32", [1, self.kv_heads, rows // self.ring, self.head_dim])
        return {"key": self._packed(rows), "key_least": of_group, "key_step": of_group}

    def _values(self, rows: int) -> dict[str, Place]:
        ranges = self.head_dim // channels_of_range(self.head_dim, self.bits)
        of_row: Place = ("float32", [1, self.kv_heads, rows, ranges])
        return {"value": self._packed(rows), "value_least": of_row, "value_step": of_row}

    def _packed(self, rows: int) -> Place:
        return "int8", [1, self.kv_heads, rows, self.head_dim * self.bits // 8]


Packed = tuple["Tensor", "Tensor", "Tensor"]  # levels, and least and step of their ranges


def pack_keys(keys: Tensor, ring: int, bits: int) -> Packed:
    """Rows [1, G, n, H] as n / R groups of R = `ring` rows.

    Returns:
        int8 [1, G, n, H * bits / 8], and float32 [1, G, n / R, H] twice.
    """
    (one, heads, rows, width) = keys.shape
    groups = keys.reshape(one, heads, rows // ring, ring, width)
    least, step = find_range(groups, 3, bits)
    return to_levels(groups, least, step, bits).flatten(2, 3), least.squeeze(3), step.squeeze(3)


def read_keys(levels: Tensor, least: Tensor, step: Tensor, bits: int) -> Tensor:
    """What `pack_keys` packed, up to rounding: float32 [1, G, n, H]."""
    ring = levels.shape[2] // least.shape[2]
    least, step = (part.repeat_interleave(ring, 2) for part in (least, step))
    return from_levels(levels, least, step, bits)


def pack_values(values: Tensor, bits: int) -> Packed:
    """Rows [1, G, n, H], each by itself, in H / c ranges of c = `channels_of_range` channels.

    Returns:
        int8 [1, G, n, H * bits / 8], a range's bytes after another's, and float32 [1, G, n, H / c]
        twice.
    """
    channels = channels_of_range(values.shape[3], bits)
    ranges = values.reshape(*values.shape[:3], -1, channels)
    least, step = find_range(ranges, 4, bits)
    return to_levels(ranges, least, step, bits).flatten(3, 4), least.squeeze(4), step.squeeze(4)


def read_values(levels: Tensor, least: Tensor, step: Tensor, bits: int) -> Tensor:
    """What `pack_values` packed, up to rounding: float32 [1, G, n, H]."""
    ranges = levels.reshape(*least.shape, -1)
    return from_levels(ranges, least.unsqueeze(4), step.unsqueeze(4), bits).flatten(3, 4)


def let_value_go(packed: Packed, ring: Tensor, count: Tensor, bits: int) -> Packed:
    """The packed values with the one that leaves the ring [1, G, R, H] when row `count` comes.

    While the ring fills nothing leaves, and what is written to row 0 is written over later.

    Args:
        count: int64 [1], rows before the one that comes.
    """
    size = ring.shape[2]
    leaving = pack_values(ring.index_select(2, count % size), bits)
    place = (count - size).clamp(min=0)
    levels, least, step = (write_row(*pair, place) for pair in zip(packed, leaving, strict=True))
    return levels, least, step


def weigh_values(
    weights: Tensor, packed: Packed, joined: Tensor, count: Tensor, bits: int
) -> Tensor:
    """Sum of values by their weights: float32 [1, G, n, H].

    Args:
        weights: [1, G, n, slots], in the order of the rows; zero after row `count`.
        packed: those that left the ring.
        joined: [1, G, R + 1, H], the ring before row `count` came, and that row.
    """
    import torch

    (slots, size), values = (weights.shape[3], joined.shape[2] - 1), read_values(*packed, bits)
    first = (count - size).clamp(min=0)  # that is read as it came
    early = torch.where(torch.arange(slots) < first, weights, 0.0)[..., : values.shape[2]]
    late = torch.cat([rows_of_slots(count - 1, size), count])
    of_late = weights.index_select(3, late.clamp(min=0)) * (late >= 0)
    return early @ values + of_late @ joined
