"""The stages of a KIVI cache: a prompt that fills groups, a step over them and the ring, flush."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    fit_rows,
    weigh_rows,
    zero_padding,
)
from edgetok.kv.stores import kivi
from edgetok.kv.stores.kivi import KiviShape
from edgetok.kv.stores.ring import order_scores, put_last, take_last


class KiviPromptAttention(PromptAttention):
    """Leaves full groups of keys, the values before the last R, and both rings."""

    shape: KiviShape

    def fill(
        self, query: Tensor, key: Tensor, value: Tensor, scaling: float, last: Tensor
    ) -> tuple[Tensor, ...]:
        true, last = torch.arange(key.shape[2]) <= last, last.long()
        key, value = zero_padding(key, value, true)
        values = kivi.pack_values(value, self.shape.bits)  # those that the ring holds too
        fitted = (fit_rows(part, self.shape.value_rows) for part in values)
        rings = (take_last(rows, last, self.shape.ring) for rows in (key, value))
        return *self._pack_keys(key), *fitted, *rings

    def _pack_keys(self, key: Tensor) -> list[Tensor]:
        """All groups that the prompt can fill."""
        shape, ring = self.shape, self.shape.ring
        count = key.shape[2] // ring * ring
        if not count:
            key, count = functional.pad(key, (0, 0, 0, ring - key.shape[2])), ring
        packed = kivi.pack_keys(key[:, :, :count], ring, shape.bits)
        sizes = [shape.buffers[kind][1][2] for kind in shape.group]
        return [fit_rows(part, rows) for part, rows in zip(packed, sizes, strict=True)]


@dataclass
class KiviAttention(RowAttention):
    """Over packed groups of keys and packed values, and what waits of both.

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
        joined = torch.cat([past[7], value], 2)  # read once, since it may be written in place
        ring = joined[:, :, :-1]
        values = kivi.let_value_go((past[3], past[4], past[5]), ring, count, bits)
        keys = put_last(past[6], key, count)
        self.present.append((*values, keys, put_last(ring, value, count)))
        scores = self._score(query * scaling, past[:3], keys, count)
        weights = weigh_rows(scores, count)
        return kivi.weigh_values(weights, values, joined, count, bits).reshape(1, 1, -1)

    def _score(
        self, query: Tensor, packed: Sequence[Tensor], ring: Tensor, count: Tensor
    ) -> Tensor:
        """Products of a query [1, heads, 1, H] with all keys, in the order of the rows.

        Returns:
            float32 [1, G, heads / G, slots].
        """
        (levels, least, step), size = packed, self.shape.ring
        asking = query.reshape(1, ring.shape[1], -1, ring.shape[3])
        keys = kivi.read_keys(levels, least, step, self.shape.bits)
        filed, waiting = (asking @ rows.transpose(2, 3) for rows in (keys, ring))
        first = torch.div(count, size, rounding_mode="floor") * size  # a full ring is filed before
        return order_scores(filed, waiting, first, self.shape.slots)


class KiviPrefill(RingPrefill):
    """A prompt of a KIVI cache."""

    attention = KiviPromptAttention


class KiviDecode(RingDecode):
    """A step of a KIVI cache: it writes the rings and the value that leaves; keys stay packed."""

    attention = KiviAttention


class KiviFlush(RingFlush):
    """The full rings of keys of all layers -> what they are as a group."""

    def forward(self, *rings: Tensor) -> tuple[Tensor, ...]:
        return self.pack_all(rings)

    def pack(self, held: dict[str, Tensor]) -> Iterable[Tensor]:
        return kivi.pack_keys(held["ring_key"], self.shape.ring, self.shape.bits)
