"""The stages of a ThinK cache: a prompt that chooses channels of keys, a step that prunes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgetok.export.attention import FORBIDDEN
from edgetok.export.caches.ring import (
    PromptAttention,
    RingDecode,
    RingPrefill,
    RowAttention,
    zero_padding,
)
from edgetok.kv.saliency import ask_last
from edgetok.kv.stores import think
from edgetok.kv.stores.think import ThinkShape


class ThinkPromptAttention(PromptAttention):
    """Leaves pruned keys, and the last ones whole."""

    shape: ThinkShape

    def fill(
        self, query: Tensor, key: Tensor, value: Tensor, scaling: float, last: Tensor
    ) -> tuple[Tensor, ...]:
        true = torch.arange(key.shape[2]) <= last  # zeros add nothing to a channel's importance
        key, value = zero_padding(key, value, true)
        asking = self._ask(query, last.long() + 1)
        channels = think.choose_channels(asking, key, self.shape.channels)
        region = _fit(think.prune(key, channels), self.shape.pruned_rows)
        ring = self._wait(key, last.long())
        return region, _fit(value, self.shape.slots), ring, channels.to(torch.int32)

    def _ask(self, query: Tensor, count: Tensor) -> Tensor:
        """The prompt's last queries, rotated: [1, heads, w, H], zeros where there are fewer."""
        asked, weights = ask_last(query.shape[2], count, think.WINDOW)
        return self.rotate(query.index_select(2, asked), asked) * weights[:, None]

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
class ThinkAttention(RowAttention):
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


class ThinkPrefill(RingPrefill):
    """A prompt of a ThinK cache."""

    attention = ThinkPromptAttention


class ThinkDecode(RingDecode):
    """A step of a ThinK cache: it writes keys and values with the new row's."""

    attention = ThinkAttention
