"""ZipCache (arXiv 2405.14256): salient rows in 4 bits, the others in 2, new ones as they are.

Keys have a range per channel, over the rows of their tier. Values are divided by the root of each
channel's largest magnitude, then have a range per row and head (channel-separable tokenwise).

Frozen: which rows are salient is decided per head; ranges of keys and the values' divisors are
those of the prompt, and rows that are packed later are clipped to them. How many rows are salient
is a constant. The released code mixes rows of different heads in a value's range; this does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgetok.kv.stores.levels import find_range, from_levels, to_levels

if TYPE_CHECKING:
    from torch import Tensor

HIGH_BITS, LOW_BITS = 4, 2
SALIENT_SHARE = 0.6
SMALLEST_DIVISOR = 1e-4  # of a channel that is zero all over the prompt


@dataclass(frozen=True)
class Tier:
    """Rows of one number of bits, C slots of which the first ones are filled.

    Args:
        keys, values: int8 [1, G, C, H * bits / 8].
        key_least, key_step: float32 [1, G, 1, H].
        divisor: float32 [1, G, 1, H], of values.
        value_least, value_step: float32 [1, G, C, 1].
    """

    keys: Tensor
    values: Tensor
    key_least: Tensor
    key_step: Tensor
    divisor: Tensor
    value_least: Tensor
    value_step: Tensor


def split_salient(salience: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Places of the `count` most salient rows per head and of the others, ascending.

    salience float32 [1, G, S] -> int64 [1, G, count] and [1, G, S - count].
    """
    import torch

    rows = salience.shape[-1]
    order = torch.topk(salience, rows, dim=-1).indices
    return order[..., :count].sort(-1).values, order[..., count:].sort(-1).values


def pack(keys: Tensor, values: Tensor, salience: Tensor, slots: tuple[int, int]) -> list[Tier]:
    """Both tiers, of a prompt's rows [1, G, S, H] and how salient each is, [1, G, S].

    `slots` are those of the high and the low tier; rows that come later fill them up.
    """
    salient = round(SALIENT_SHARE * keys.shape[2])
    places = split_salient(salience, salient)
    bits = (HIGH_BITS, LOW_BITS)
    return [
        _pack_tier(_pick(keys, p), _pick(values, p), b, c)
        for p, b, c in zip(places, bits, slots, strict=True)
    ]


def _pick(rows: Tensor, places: Tensor) -> Tensor:
    """rows [1, G, S, H] at places [1, G, k] -> [1, G, k, H]."""
    return rows.gather(2, places.unsqueeze(-1).expand(-1, -1, -1, rows.shape[3]))


def _pack_tier(keys: Tensor, values: Tensor, bits: int, slots: int) -> Tier:
    import torch

    least, step = find_range(keys, 2, bits)
    divisor = values.abs().amax(2, keepdim=True).sqrt().clamp(min=SMALLEST_DIVISOR)
    groups, head_dim = keys.shape[1], keys.shape[3]
    levels = torch.zeros(1, groups, slots, head_dim * bits // 8, dtype=torch.int8)
    of_slot = torch.zeros(1, groups, slots, 1)
    empty = Tier(levels, levels, least, step, divisor, of_slot, of_slot)
    return append(empty, keys, values, torch.zeros(1, dtype=torch.int64), bits)


def append(tier: Tier, keys: Tensor, values: Tensor, start: Tensor, bits: int) -> Tier:
    """The tier with rows [1, G, n, H] from slot `start`, int64 [1], on."""
    import torch

    ranges = tier.key_least, tier.key_step, tier.divisor
    packed, (least, step) = pack_rows(keys, values, *ranges, bits)
    slots = start + torch.arange(keys.shape[2])
    return Tier(
        tier.keys.index_copy(2, slots, packed[0]),
        tier.values.index_copy(2, slots, packed[1]),
        *ranges,
        tier.value_least.index_copy(2, slots, least),
        tier.value_step.index_copy(2, slots, step),
    )


def pack_rows(
    keys: Tensor, values: Tensor, key_least: Tensor, key_step: Tensor, divisor: Tensor, bits: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Rows [1, G, n, H] in the ranges of a tier: levels of both, and ranges of the values."""
    even = values / divisor
    least, step = find_range(even, 3, bits)
    levels = to_levels(keys, key_least, key_step, bits), to_levels(even, least, step, bits)
    return levels, (least, step)


def repack(
    tiers: list[Tier], keys: Tensor, values: Tensor, salience: Tensor, starts: tuple[Tensor, Tensor]
) -> list[Tier]:
    """Both tiers with the tail's T rows [1, G, T, H], split by their salience [1, G, T].

    `starts`, int64 [1] each, say how many rows the tiers hold.
    """
    salient = round(SALIENT_SHARE * keys.shape[2])
    places, bits = split_salient(salience, salient), (HIGH_BITS, LOW_BITS)
    return [
        append(tier, _pick(keys, p), _pick(values, p), start, b)
        for tier, p, start, b in zip(tiers, places, starts, bits, strict=True)
    ]


def read(tier: Tier, bits: int) -> tuple[Tensor, Tensor]:
    """Keys and values [1, G, C, H] of a tier."""
    keys = from_levels(tier.keys, tier.key_least, tier.key_step, bits)
    even = from_levels(tier.values, tier.value_least, tier.value_step, bits)
    return keys, even * tier.divisor
