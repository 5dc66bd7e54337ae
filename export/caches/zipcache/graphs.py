"""The stages of a ZipCache: a prompt into two tiers, a step that scores its ring, the flush."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgetok.export.caches.ring import (
    PromptAttention,
    RingDecode,
    RingFlush,
    RingPrefill,
    RowAttention,
    attend_row,
)
from edgetok.kv.policies.zipcache import ask
from edgetok.kv.saliency import received, visible
from edgetok.kv.stores import zipcache
from edgetok.kv.stores.zipcache import BITS, ZipShape


class ZipPromptAttention(PromptAttention):
    """Leaves the prompt's rows in two tiers."""

    shape: ZipShape

    def fill(
        self, query: Tensor, key: Tensor, value: Tensor, scaling: float, last: Tensor
    ) -> tuple[Tensor, ...]:
        count = last.long() + 1
        place = torch.arange(key.shape[2])
        key, value = (torch.where((place < count)[:, None], rows, 0.0) for rows in (key, value))
        salience = self._salience(query, key, count, scaling)
        salience = torch.where(place < count, salience, -1.0)
        tiers = zipcache.pack_prompt(key, value, salience[None], count, self.shape.tiers)
        sizes = {kind: self.shape.buffers[kind][1] for kind in self.shape.written}
        found = tiers | {kind: torch.zeros(size) for kind, size in sizes.items()}
        return tuple(found[kind] for kind in self.shape.buffers)

    def _salience(self, query: Tensor, key: Tensor, count: Tensor, scaling: float) -> Tensor:
        """Mean attention [G, S] that rows got from the probes that could see them."""
        rows = query.shape[2]
        asked, weights = ask(rows, count[0])
        rotated = self.rotate(query.index_select(2, asked), asked)
        scores = received(rotated[0], asked, weights, key[0], scaling)
        return scores / visible(asked, weights, rows).clamp(min=1.0)


@dataclass
class ZipAttention(RowAttention):
    """Over two tiers and the ring, giving what waits there its attention.

    Args:
        past: per layer its buffers, in the order of `ZipShape.buffers`.
    """

    shape: ZipShape
    past: list[tuple[Tensor, ...]]

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        layer = len(self.present)
        past = dict(zip(self.shape.buffers, self.past[layer], strict=True))
        query, key = self.rotate(query, layer), self.rotate(key, layer)
        filled = past["filled"].to(torch.int64)
        count = self.counts[layer] - filled.sum()
        new = torch.arange(self.shape.ring) == count
        ring_key = torch.where(new[:, None], key, past["ring_key"])
        ring_value = torch.where(new[:, None], value, past["ring_value"])
        high, low = (zipcache.read(tier_of(past, tier), BITS[tier]) for tier in BITS)
        true = [torch.arange(n) < filled[i] for i, n in enumerate(self.shape.tiers.values())]
        rows, weights = attend_row(
            query * scaling,
            torch.cat([high[0], low[0], ring_key], 2)[0],
            torch.cat([high[1], low[1], ring_value], 2)[0],
            torch.cat([*true, torch.arange(self.shape.ring) <= count]),
        )
        given = weights.mean(1)[:, -self.shape.ring :]  # [G, T]
        score = torch.where(new, 0.0, past["ring_score"]) + given
        self.present.append((ring_key, ring_value, score))
        return rows


class ZipPrefill(RingPrefill):
    """A prompt of a ZipCache."""

    attention = ZipPromptAttention


class ZipDecode(RingDecode):
    """A step of a ZipCache: it writes the rings; the tiers stay as they are."""

    attention = ZipAttention


class ZipFlush(RingFlush):
    """The full rings of all layers -> their rows as each tier holds them."""

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        return self.pack_all(given)

    def pack(self, held: dict[str, Tensor]) -> Iterable[Tensor]:
        return zipcache.pack_ring(self.shape, held).values()


def tier_of(held: dict[str, Tensor], tier: str) -> zipcache.Tier:
    """The buffers of one tier."""
    kinds = ("key", "value", "key_least", "key_step", "value_least", "value_step")
    return zipcache.Tier(*[held[name] for name in (*(f"{tier}_{k}" for k in kinds), "divisor")])
