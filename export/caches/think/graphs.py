"""The stages of a ThinK cache: a prompt that chooses channels of keys, a step that prunes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgetok.export.caches.ring import (
    PromptAttention,
    RingDecode,
    RingPrefill,
    RowAttention,
    fit_rows,
    weigh_rows,
    zero_padding,
)
from edgetok.kv.saliency import ask_last
from edgetok.kv.stores import think
from edgetok.kv.stores.ring import order_scores, take_last
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
        region = fit_rows(think.prune(key, channels), self.shape.pruned_rows)
        ring = take_last(key, last.long(), self.shape.ring)
        return region, fit_rows(value, self.shape.slots), ring, channels.to(torch.int32)

    def _ask(self, query: Tensor, count: Tensor) -> Tensor:
        """The prompt's last queries, rotated: [1, heads, w, H], zeros where there are fewer."""
        asked, weights = ask_last(query.shape[2], count, think.WINDOW)
        return self.rotate(query.index_select(2, asked), asked) * weights[:, None]


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
        first = count - self.shape.ring + 1  # whose key is whole
        scores = order_scores(*products, first, self.shape.slots)
        weights = weigh_rows(scores, count).reshape(*values.shape[:2], -1, self.shape.slots)
        return (weights @ values).reshape(1, 1, -1)


class ThinkPrefill(RingPrefill):
    """A prompt of a ThinK cache."""

    attention = ThinkPromptAttention


class ThinkDecode(RingDecode):
    """A step of a ThinK cache: it writes keys and values with the new row's."""

    attention = ThinkAttention
