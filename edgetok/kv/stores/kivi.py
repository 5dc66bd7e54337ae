"""KIVI (arXiv 2402.02750): keys in few bits per channel of a group of tokens, values per token.

New rows wait in float32 until a whole group is there (`stage`), then the group moves into the main
region (`flush`). Everything has constant shapes; the host calls `flush` every R steps.

Frozen: the waiting rows are a ring of exactly R, where the paper lets them grow to R and moves them
at once, which is the same. Exact otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgetok.kv.stores.levels import find_range, from_levels, to_levels

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Region:
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


def empty_region(groups: int, slots: int, head_dim: int, waiting: int, bits: int) -> Region:
    """A region of nothing. `slots` must be a multiple of `waiting`, R."""
    import torch

    bytes_ = torch.zeros(1, groups, slots, head_dim * bits // 8, dtype=torch.int8)
    of_group = torch.zeros(1, groups, slots // waiting, head_dim)
    of_slot = torch.zeros(1, groups, slots, 1)
    return Region(bytes_, bytes_, of_group, of_group, of_slot, of_slot)


def stage(ring: Ring, key: Tensor, value: Tensor, count: Tensor) -> Ring:
    """The ring with the row [1, G, 1, H] that is number `count`, int64 [1], of all."""
    import torch

    waiting = ring.keys.shape[2]
    here = (torch.arange(waiting) == count % waiting)[:, None]
    return Ring(torch.where(here, key, ring.keys), torch.where(here, value, ring.values))


def pack(keys: Tensor, values: Tensor, waiting: int, bits: int) -> Region:
    """Rows [1, G, n, H] as n / R full groups of R = `waiting` rows; a region without free slots."""
    (one, heads, count, head_dim) = keys.shape
    groups = keys.reshape(one, heads, count // waiting, waiting, head_dim)
    least, step = find_range(groups, 3, bits)  # of each channel over a group
    value_least, value_step = find_range(values, 3, bits)  # of each token
    return Region(
        to_levels(groups, least, step, bits).flatten(2, 3),
        to_levels(values, value_least, value_step, bits),
        least.squeeze(3),
        step.squeeze(3),
        value_least,
        value_step,
    )


def flush(region: Region, ring: Ring, block: Tensor, bits: int) -> Region:
    """The region with a full ring as its group number `block`, int64 [1]."""
    import torch

    waiting = ring.keys.shape[2]
    group = pack(ring.keys, ring.values, waiting, bits)
    slots = block * waiting + torch.arange(waiting)
    return Region(
        region.keys.index_copy(2, slots, group.keys),
        region.values.index_copy(2, slots, group.values),
        region.key_least.index_copy(2, block, group.key_least),
        region.key_step.index_copy(2, block, group.key_step),
        region.value_least.index_copy(2, slots, group.value_least),
        region.value_step.index_copy(2, slots, group.value_step),
    )


def read(region: Region, ring: Ring, count: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
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
