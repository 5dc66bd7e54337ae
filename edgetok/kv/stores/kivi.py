"""KIVI (arXiv 2402.02750): keys in few bits per channel of a group of tokens, values per token.

New rows wait in float32 until a whole group is there (`stage`), then it is packed (`pack`).
Everything has constant shapes; the host files a group every R steps.

Frozen: the waiting rows are a ring of exactly R, where the paper lets them grow to R and moves them
at once, which is the same. Exact otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgetok.kv.stores.buffers import Filing, Place
from edgetok.kv.stores.levels import find_range, from_levels, to_levels

if TYPE_CHECKING:
    from torch import Tensor

BITS = {"kivi": 2, "kivi4": 4}  # of a packed number, by name of the scheme
RING_ROWS = 32  # the paper's group


@dataclass(frozen=True)
class KiviShape:
    """Constants of a KIVI cache.

    Args:
        slots: rows that a layer can hold, groups and ring together.
        ring: rows that wait, as many as a group has.
        bits: of a packed number.
    """

    layers: int
    kv_heads: int
    head_dim: int
    slots: int
    ring: int
    bits: int

    filing: ClassVar[Filing] = "groups"  # what the host does with a full ring
    written = ("ring_key", "ring_value")  # what a step writes
    waiting = written  # what the flush graph reads

    @property
    def group_rows(self) -> int:
        """Rows of all groups that are full before the last row waits."""
        return max(1, (self.slots - 1) // self.ring) * self.ring

    @property
    def buffers(self) -> dict[str, Place]:
        """Every buffer of one layer: dtype and shape by the part of it that it holds."""
        waiting = [1, self.kv_heads, self.ring, self.head_dim]
        rings: dict[str, Place] = {
            "ring_key": ("float32", waiting),
            "ring_value": ("float32", waiting),
        }
        return self._groups(self.group_rows) | rings

    @property
    def group(self) -> dict[str, Place]:
        """What one full ring becomes."""
        return self._groups(self.ring)

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


@dataclass(frozen=True)
class Groups:
    """Groups in few bits: C slots, R in a group.

    Args:
        keys, values: int8 [1, G, C, H * bits / 8].
        key_least, key_step: float32 [1, G, C / R, H].
        value_least, value_step: float32 [1, G, C, 1].
    """

    keys: Tensor
    values: Tensor
    key_least: Tensor
    key_step: Tensor
    value_least: Tensor
    value_step: Tensor

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """All tensors, in the order above."""
        return tuple(getattr(self, name) for name in self.__dataclass_fields__)


@dataclass(frozen=True)
class Ring:
    """Rows that wait: float32 [1, G, R, H] each."""

    keys: Tensor
    values: Tensor


def empty_groups(groups: int, slots: int, head_dim: int, waiting: int, bits: int) -> Groups:
    """Groups of nothing. `slots` must be a multiple of `waiting`, R."""
    import torch

    bytes_ = torch.zeros(1, groups, slots, head_dim * bits // 8, dtype=torch.int8)
    of_group = torch.zeros(1, groups, slots // waiting, head_dim)
    of_slot = torch.zeros(1, groups, slots, 1)
    return Groups(bytes_, bytes_, of_group, of_group, of_slot, of_slot)


def stage(ring: Ring, key: Tensor, value: Tensor, count: Tensor) -> Ring:
    """The ring with the row [1, G, 1, H] that is number `count`, int64 [1], of all."""
    import torch

    waiting = ring.keys.shape[2]
    here = (torch.arange(waiting) == count % waiting)[:, None]
    return Ring(torch.where(here, key, ring.keys), torch.where(here, value, ring.values))


def pack(keys: Tensor, values: Tensor, waiting: int, bits: int) -> Groups:
    """Rows [1, G, n, H] as n / R full groups of R = `waiting` rows; without free slots."""
    (one, heads, count, head_dim) = keys.shape
    groups = keys.reshape(one, heads, count // waiting, waiting, head_dim)
    least, step = find_range(groups, 3, bits)  # of each channel over a group
    value_least, value_step = find_range(values, 3, bits)  # of each token
    return Groups(
        to_levels(groups, least, step, bits).flatten(2, 3),
        to_levels(values, value_least, value_step, bits),
        least.squeeze(3),
        step.squeeze(3),
        value_least,
        value_step,
    )


def read(region: Groups, ring: Ring, count: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """What `count` rows, int64 [1], left: keys and values [1, G, C + R, H], and which are true.

    A ring that is full counts as not flushed yet: the host flushes before the next row.

    Returns:
        Keys, values, and bool [C + R].
    """
    import torch

    slots, waiting = region.keys.shape[2], ring.keys.shape[2]
    spread = [x.repeat_interleave(waiting, 2) for x in (region.key_least, region.key_step)]
    keys = from_levels(region.keys, spread[0], spread[1], bits)
    values = from_levels(region.values, region.value_least, region.value_step, bits)
    flushed = torch.div((count - 1).clamp(min=0), waiting, rounding_mode="floor") * waiting
    true = torch.cat([torch.arange(slots) < flushed, torch.arange(waiting) < count - flushed])
    return torch.cat([keys, ring.keys], 2), torch.cat([values, ring.values], 2), true
