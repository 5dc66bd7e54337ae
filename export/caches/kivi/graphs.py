"""The stages of a KIVI cache: a prompt that fills groups, a step over them and the ring, flush."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgetok.export.caches.ring import (
    PromptAttention,
    RingDecode,
    RingFlush,
    RingPrefill,
    RowAttention,
    attend_row,
    zero_padding,
)
from edgetok.kv.stores import kivi
from edgetok.kv.stores.kivi import KiviShape


class KiviPromptAttention(PromptAttention):
    """Leaves full groups, and the rows after them in the ring."""

    shape: KiviShape

    def fill(
        self, query: Tensor, key: Tensor, value: Tensor, scaling: float, last: Tensor
    ) -> tuple[Tensor, ...]:
        true = torch.arange(key.shape[2]) <= last
        key, value = zero_padding(key, value, true)
        return *self._pack_groups(key, value), *self._wait(key, value, last.long())

    def _pack_groups(self, key: Tensor, value: Tensor) -> list[Tensor]:
        """All groups that the prompt can fill."""
        ring, bits = self.shape.ring, self.shape.bits
        count = key.shape[2] // ring * ring
        if not count:
            sizes = key.shape[1], self.shape.group_rows, key.shape[3]
            return [*kivi.empty_groups(*sizes, ring, bits).parts]
        packed = kivi.pack(key[:, :, :count], value[:, :, :count], ring, bits).parts
        slots = [place[1][2] for place in self.shape.buffers.values()]
        return [
            functional.pad(part, (0, 0, 0, rows - part.shape[2]))
            for part, rows in zip(packed, slots, strict=False)
        ]

    def _wait(self, key: Tensor, value: Tensor, last: Tensor) -> list[Tensor]:
        """The ring: rows after the full groups, at least one."""
        ring = self.shape.ring
        first = torch.div(last, ring, rounding_mode="floor") * ring
        places = (first + torch.arange(ring)).clamp(max=key.shape[2] - 1)
        return [rows.index_select(2, places) for rows in (key, value)]


@dataclass
class KiviAttention(RowAttention):
    """Over packed groups and the ring after it.

    Args:
        past: per layer its buffers, in the order of `KiviShape.buffers`.
    """

    shape: KiviShape
    past: list[tuple[Tensor, ...]]

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        layer = len(self.present)
        query, key = self.rotate(query, layer), self.rotate(key, layer)
        past, count, bits = self.past[layer], self.counts[layer], self.shape.bits
        ring = kivi.stage(kivi.Ring(*past[6:]), key, value, count)
        self.present.append((ring.keys, ring.values))
        keys, values, true = kivi.read(kivi.Groups(*past[:6]), ring, count + 1, bits)
        return attend_row(query * scaling, keys[0], values[0], true)[0]


class KiviPrefill(RingPrefill):
    """A prompt of a KIVI cache."""

    attention = KiviPromptAttention


class KiviDecode(RingDecode):
    """A step of a KIVI cache: it writes the rings, the groups stay as they are."""

    attention = KiviAttention


class KiviFlush(RingFlush):
    """The full rings of all layers -> what they are as a group."""

    def forward(self, *rings: Tensor) -> tuple[Tensor, ...]:
        return self.pack_all(rings)

    def pack(self, held: dict[str, Tensor]) -> Iterable[Tensor]:
        ring, bits = self.shape.ring, self.shape.bits
        return kivi.pack(held["ring_key"], held["ring_value"], ring, bits).parts
