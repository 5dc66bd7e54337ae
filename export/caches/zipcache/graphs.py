"""The stages of a ZipCache: prefill into two tiers, decode that scores its ring, the flush."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from edgetok.export.attention import DecoderSpelling, merge_heads
from edgetok.export.caches.ring import (
    RingedFlush,
    RingedPrefill,
    RingedStep,
    RowAttention,
    attend_row,
)
from edgetok.kv.policies.zipcache import ask
from edgetok.kv.saliency import received, visible
from edgetok.kv.stores import zipcache
from edgetok.kv.stores.zipcache import BITS, ZipShape

Rotary = list[tuple[Tensor, Tensor]]


@dataclass
class TieringAttention:
    """A prompt that attends to itself unrounded, and leaves its rows in two tiers.

    Args:
        shape: of the cache.
        lengths: int32 [L], true rows of each layer minus one.
        rotary: of each layer the tables of cos and sin, [positions, H / 2].
        spelling: of the flavour.
    """

    shape: ZipShape
    lengths: Tensor
    rotary: Rotary
    spelling: DecoderSpelling
    present: list[dict[str, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._last = torch.split(self.lengths, 1)

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        layer = len(self.present)
        last, tables = self._last[layer], self.rotary[layer]
        rows, key, value = self.spelling.prompt(query, key, value, scaling, last, *tables)
        count = last.long() + 1
        place = torch.arange(key.shape[2])
        key, value = (torch.where((place < count)[:, None], x, 0.0) for x in (key, value))
        salience = self._salience(layer, query, key, count, scaling)
        salience = torch.where(place < count, salience, -1.0)
        tiers = zipcache.pack_prompt(key, value, salience[None], count, self.shape.tiers)
        sizes = {kind: self.shape.buffers[kind][1] for kind in self.shape.written}
        self.present.append(tiers | {kind: torch.zeros(size) for kind, size in sizes.items()})
        return rows

    def _salience(
        self, layer: int, query: Tensor, key: Tensor, count: Tensor, scaling: float
    ) -> Tensor:
        """Mean attention [G, S] that rows got from the probes that could see them."""
        heads, rows = query.shape[1:3]
        asked, weights = ask(rows, count[0])
        probes = merge_heads(query.index_select(2, asked))
        turned = self.spelling.turn(probes, asked, *self.rotary[layer], heads)
        scores = received(turned[0], asked, weights, key[0], scaling)
        return scores / visible(asked, weights, rows).clamp(min=1.0)


@dataclass
class TierAttention(RowAttention):
    """Over two tiers and the ring, giving what waits there its attention.

    Args:
        past: per layer its buffers, in the order of `ZipShape.buffers`.
    """

    shape: ZipShape
    past: list[dict[str, Tensor]]

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        layer, past = len(self.present), self.past[len(self.present)]
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


class TieringPrefill(RingedPrefill):
    """input embeddings [1, S, D], padded on the right -> logits [1, W] and all buffers."""

    shape: ZipShape

    def forward(self, embeds: Tensor, last: Tensor, lengths: Tensor) -> Any:
        attention = TieringAttention(self.shape, lengths, self._rotary(), self.spelling)
        rows = self.attend(embeds, attention)
        held = [parts[kind] for parts in attention.present for kind in self.shape.buffers]
        return self.read_logits(rows[0].index_select(0, last)), *held


class TierDecode(RingedStep):
    """One token id [1, 1] -> logits [1, W] and the rings; the tiers stay as they are."""

    shape: ZipShape

    def forward(self, token: Tensor, lengths: Tensor, positions: Tensor, *past: Tensor) -> Any:
        kinds = list(self.shape.buffers)
        layers = [
            dict(zip(kinds, past[first : first + len(kinds)], strict=True))
            for first in range(0, len(past), len(kinds))
        ]
        given = lengths, positions, self._rotary(), self.spelling
        attention = TierAttention(*given, self.shape, layers)
        rows = self.attend(self.text.embed(token), attention)
        held = [ring for rings in attention.present for ring in rings]
        return self.read_logits(rows[0]), *held


class TierFlush(RingedFlush):
    """The full rings of all layers -> their rows as each tier holds them."""

    shape: ZipShape

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        kinds, made = self.shape.waiting, list[Tensor]()
        for first in range(0, len(given), len(kinds)):
            held = dict(zip(kinds, given[first : first + len(kinds)], strict=True))
            made += zipcache.pack_ring(self.shape, held).values()
        return tuple(made)


def tier_of(held: dict[str, Tensor], tier: str) -> zipcache.Tier:
    """The buffers of one tier."""
    kinds = ("key", "value", "key_least", "key_step", "divisor", "value_least", "value_step")
    return zipcache.Tier(*(held[f"{tier}_{kind}"] for kind in kinds))
