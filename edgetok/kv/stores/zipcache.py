"""ZipCache (arXiv 2405.14256): salient rows in 4 bits, the others in 2, new ones as they are.

Keys have a range per channel, over the rows of their tier. Values are divided by the root of each
channel's largest magnitude among all rows, then have a range per row and head (channel-separable
tokenwise).

Frozen: which rows are salient is decided per head; ranges of keys and the values' divisors are
those of the prompt, and rows that are packed later are clipped to them, where the released code
finds both anew for each 100 rows. It mixes rows of different heads in a value's range; this does
not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgetok.kv.stores.buffers import Filing, Place, Store
from edgetok.kv.stores.kivi import RING_ROWS
from edgetok.kv.stores.levels import find_range, from_levels, to_levels

if TYPE_CHECKING:
    from torch import Tensor

NAME = "zipcache"
BITS = {"high": 4, "low": 2}
PLAIN, OF = 2, 5  # two rows of five are not salient, rounded down, as in the released code
SMALLEST_DIVISOR = 1e-4  # of a channel that is zero all over the prompt
FAR = 1e30  # beyond every number of a row
STORE = Store(
    names=(NAME,),
    paper="arXiv 2405.14256",
    summary="three rows of five in 4 bits, the others in 2, the last ones in float32",
    differs="values have a range for each head, where the program's spans rows of all heads; rows "
    "after the prompt take its ranges of keys, where the program finds new ones for each 100; "
    "probes at constant steps, not random ones",
)


def count_salient(rows: int) -> int:
    """How many of so many rows go to the high tier.

    >>> count_salient(32), count_salient(99)
    (20, 60)
    """
    return rows - PLAIN * rows // OF


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

    filing: ClassVar[Filing] = "tiers"  # what the host does with a full ring
    written = ("ring_key", "ring_value", "ring_score")  # what a step writes
    waiting = (
        *written,
        *(f"{tier}_{kind}" for tier in BITS for kind in ("key_least", "key_step")),
        "divisor",
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
            found |= {f"{tier}_{kind}": of_channel for kind in ("key_least", "key_step")}
        row: Place = ("float32", [1, self.kv_heads, self.ring, self.head_dim])
        score: Place = ("float32", [1, self.kv_heads, self.ring])
        found |= {"divisor": of_channel, "ring_key": row, "ring_value": row, "ring_score": score}
        return found | {"filled": ("int32", [2])}

    @property
    def group(self) -> dict[str, Place]:
        """What one full ring becomes in the tiers."""
        salient = count_salient(self.ring)
        return self._rows("high", salient) | self._rows("low", self.ring - salient)

    def _rows(self, tier: str, rows: int) -> dict[str, Place]:
        width = self.head_dim * BITS[tier] // 8
        packed: Place = ("int8", [1, self.kv_heads, rows, width])
        of_row: Place = ("float32", [1, self.kv_heads, rows, 1])
        kinds = ("key", "value", "value_least", "value_step")
        places = (packed, packed, of_row, of_row)
        return {f"{tier}_{kind}": place for kind, place in zip(kinds, places, strict=True)}


@dataclass(frozen=True)
class Tier:
    """Rows of one number of bits, C slots of which the first ones are filled.

    Args:
        keys, values: int8 [1, G, C, H * bits / 8].
        key_least, key_step: float32 [1, G, 1, H].
        value_least, value_step: float32 [1, G, C, 1].
        divisor: float32 [1, G, 1, H], of values; the same in both tiers.
    """

    keys: Tensor
    values: Tensor
    key_least: Tensor
    key_step: Tensor
    value_least: Tensor
    value_step: Tensor
    divisor: Tensor


def split_salient(salience: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Places of the `count` most salient rows per head and of the others, ascending.

    salience float32 [1, G, S] -> int64 [1, G, count] and [1, G, S - count].
    """
    import torch

    rows = salience.shape[-1]
    order = torch.topk(salience, rows, dim=-1).indices
    return order[..., :count].sort(-1).values, order[..., count:].sort(-1).values


def pack_prompt(
    key: Tensor, value: Tensor, salience: Tensor, count: Tensor, slots: dict[str, int]
) -> dict[str, Tensor]:
    """Both tiers of a prompt's rows [1, G, S, H], by name of the buffer.

    Args:
        salience: [1, G, S], lowest of all at rows that are padding.
        count: int64 [1], true rows.
        slots: of each tier; rows that come later fill them up.
    """
    import torch
    from torch.nn import functional

    rows = key.shape[2]
    order = torch.topk(salience, rows, dim=-1).indices
    high = count - torch.div(PLAIN * count, OF, rounding_mode="floor")
    rank = torch.arange(rows)
    true = (rank < count)[:, None]
    divisor, whole = _divisor(value, true), _span(key, true)
    found: dict[str, Tensor] = {"divisor": divisor}
    for tier, mine in (("high", rank < high), ("low", (rank >= high) & (rank < count))):
        size = count_salient(rows) if tier == "high" else max(1, rows - count_salient(rows))
        places = torch.where(mine, order, rows).sort(-1).values[..., :size]
        held = _pack_tier(key, value / divisor, places, whole, BITS[tier])
        more = slots[tier] - held["key"].shape[2]
        for kind in ("key", "value", "value_least", "value_step"):
            held[kind] = functional.pad(held[kind], (0, 0, 0, max(0, more)))
            held[kind] = held[kind][:, :, : slots[tier]]
        found |= {f"{tier}_{kind}": part for kind, part in held.items()}
    return found | {"filled": torch.cat([high, count - high]).to(torch.int32)}


def _divisor(value: Tensor, true: Tensor) -> Tensor:
    """The root of each channel's largest magnitude in rows that are true: float32 [1, G, 1, H]."""
    import torch

    largest = torch.where(true, value.abs(), 0.0).amax(2, keepdim=True)
    return largest.sqrt().clamp(min=SMALLEST_DIVISOR)


def _span(rows: Tensor, mine: Tensor) -> Tensor:
    """Least and most of each channel over the rows that are `mine`: float32 [1, G, 2, H]."""
    import torch

    least = torch.where(mine, rows, FAR).amin(2, keepdim=True)
    return torch.cat([least, torch.where(mine, rows, -FAR).amax(2, keepdim=True)], 2)


def _pack_tier(
    key: Tensor, even: Tensor, places: Tensor, whole: Tensor, bits: int
) -> dict[str, Tensor]:
    """Rows at places [1, G, n] as a tier of n slots; places after the prompt are no rows.

    Args:
        even: the values, divided.
        whole: span of all keys, for what comes later into a tier that has none of the prompt.
    """
    import torch

    rows = key.shape[2]
    mine = (places < rows).unsqueeze(-1)
    at = places.clamp(max=rows - 1).unsqueeze(-1).expand(-1, -1, -1, key.shape[3])
    keys, values = key.gather(2, at), even.gather(2, at)
    span = torch.where(mine.any(2, keepdim=True), _span(keys, mine), whole)
    least, step = find_range(span, 2, bits)
    packed, of_row = pack_rows(keys, values, least, step, bits)
    return dict(
        zip(("key", "value", "value_least", "value_step"), (*packed, *of_row), strict=True)
    ) | {"key_least": least, "key_step": step}


def pack_rows(
    keys: Tensor, even: Tensor, key_least: Tensor, key_step: Tensor, bits: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Rows [1, G, n, H], values divided, in the ranges of a tier: levels, and values' ranges."""
    least, step = find_range(even, 3, bits)
    levels = to_levels(keys, key_least, key_step, bits), to_levels(even, least, step, bits)
    return levels, (least, step)


def pack_ring(shape: ZipShape, held: dict[str, Tensor]) -> dict[str, Tensor]:
    """A full ring as each tier holds its rows: what `flush` makes of the buffers `waiting`."""
    import torch

    probes = torch.arange(shape.ring, 0, -1).float()  # steps that could see each row
    chosen = split_salient(held["ring_score"] / probes, count_salient(shape.ring))
    made: dict[str, Tensor] = {}
    for tier, places in zip(BITS, chosen, strict=True):
        at = places.unsqueeze(-1).expand(-1, -1, -1, shape.head_dim)
        keys, values = held["ring_key"].gather(2, at), held["ring_value"].gather(2, at)
        least, step = held[f"{tier}_key_least"], held[f"{tier}_key_step"]
        packed, of_row = pack_rows(keys, values / held["divisor"], least, step, BITS[tier])
        names = (f"{tier}_{kind}" for kind in ("key", "value", "value_least", "value_step"))
        made |= dict(zip(names, (*packed, *of_row), strict=True))
    return made


def read(tier: Tier, bits: int) -> tuple[Tensor, Tensor]:
    """Keys and values [1, G, C, H] of a tier."""
    keys = from_levels(tier.keys, tier.key_least, tier.key_step, bits)
    even = from_levels(tier.values, tier.value_least, tier.value_step, bits)
    return keys, even * tier.divisor
