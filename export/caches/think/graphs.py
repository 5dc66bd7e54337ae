"""The stages of a ThinK cache: prefill that chooses channels of keys, decode that prunes."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgetok.export.attention import DecoderSpelling, merge_heads
from edgetok.export.caches.ring import RingedPrefill, RingedStep, RowAttention
from edgetok.export.lowering.portable_decoder import FORBIDDEN
from edgetok.kv.saliency import ask_last
from edgetok.kv.stores import think
from edgetok.kv.stores.think import ThinkShape


@dataclass
class PruningAttention:
    """A prompt that attends to itself as it is, and leaves pruned keys and the last ones whole.

    Args:
        shape: of the cache.
        lengths: int32 [L], true rows of each layer minus one.
        rotary: of each layer the tables of cos and sin, [positions, H / 2].
        spelling: of the flavour.
    """

    shape: ThinkShape
    lengths: Tensor
    rotary: list[tuple[Tensor, Tensor]]
    spelling: DecoderSpelling
    present: list[tuple[Tensor, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._last = torch.split(self.lengths, 1)

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        layer = len(self.present)
        last, tables = self._last[layer], self.rotary[layer]
        rows, key, value = self.spelling.prompt(query, key, value, scaling, last, *tables)
        # Zeros instead of padding: they add nothing to a channel's importance.
        true = (torch.arange(key.shape[2]) <= last)[:, None]
        key, value = torch.where(true, key, 0.0), torch.where(true, value, 0.0)
        asking = self._ask(layer, query, last.long() + 1)
        channels = think.choose_channels(asking, key, self.shape.channels)
        region = _fit(think.prune(key, channels), self.shape.region)
        ring = self._wait(key, last.long())
        value = _fit(value, self.shape.slots)
        self.present.append((region, value, ring, channels.to(torch.int32)))
        return rows

    def _ask(self, layer: int, query: Tensor, count: Tensor) -> Tensor:
        """The prompt's last queries, rotated: [1, heads, w, H], zeros where there are fewer."""
        asked, weights = ask_last(query.shape[2], count, think.WINDOW)
        rows = merge_heads(query.index_select(2, asked))
        turned = self.spelling.turn(rows, asked, *self.rotary[layer], query.shape[1])
        return turned * weights[:, None]

    def _wait(self, key: Tensor, last: Tensor) -> Tensor:
        """The last keys: of each slot the row that would stand there, or zeros before the first."""
        slot = torch.arange(self.shape.ring)
        row = last - (last - slot) % self.shape.ring
        places = row.clamp(min=0, max=key.shape[2] - 1)
        return torch.where((row >= 0)[:, None], key.index_select(2, places), 0.0)


def _fit(rows: Tensor, slots: int) -> Tensor:
    """Rows [1, G, S, H] as the first of so many slots; what is too much was not for them."""
    more = slots - rows.shape[2]
    return functional.pad(rows, (0, 0, 0, more)) if more >= 0 else rows[:, :, :slots]


@dataclass
class PrunedAttention(RowAttention):
    """Over pruned keys, the last ones as they are, and whole values.

    Args:
        past: per layer its buffers, in the order of `ThinkShape.buffers`.
    """

    shape: ThinkShape
    past: list[tuple[Tensor, ...]]

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        layer = len(self.present)
        query, key = self.rotate(query, layer), self.rotate(key, layer)
        (region, values, ring, kept), count = self.past[layer], self.counts[layer]
        channels = kept.to(torch.int64)
        region, ring = think.put_row(region, ring, channels, key, count)
        values = values.scatter(2, count.reshape(1, 1, 1, 1).expand(value.shape), value)
        self.present.append((region, values, ring))
        products = think.score(query * scaling, region, channels, ring)
        scores = think.order_scores(*products, count, self.shape.slots)
        return _attend(scores, values[0], count)


def _attend(scores: Tensor, values: Tensor, count: Tensor) -> Tensor:
    """Scores [1, heads, 1, C] of rows up to and with `count`, over values [G, C, H]."""
    groups, slots, head_dim = values.shape
    true = torch.arange(slots) <= count
    weights = torch.softmax(torch.where(true, scores, FORBIDDEN), dim=-1)
    return (weights.reshape(groups, -1, slots) @ values).reshape(1, 1, scores.shape[1] * head_dim)


class PruningPrefill(RingedPrefill):
    """A prompt of a ThinK cache."""

    attention = PruningAttention


class PrunedDecode(RingedStep):
    """A step of a ThinK cache: it writes keys and values with the new row's."""

    attention = PrunedAttention
