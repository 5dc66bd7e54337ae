"""The stages of a float16 cache: rows are rounded when they are stored, and widened to attend.

ONNX Runtime's attention on a CPU takes caches of float16 only with activations of float16, so both
flavours widen what is stored in standard operators.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgetok.export.caches.ring import (
    PromptAttention,
    RingDecode,
    RingPrefill,
    RowAttention,
    attend_row,
    zero_padding,
)
from edgetok.kv.stores.buffers import Filing, Place


@dataclass(frozen=True)
class Fp16Shape:
    """Constants of a float16 cache; `slots` are rows that a layer can hold."""

    layers: int
    kv_heads: int
    head_dim: int
    slots: int

    ring: ClassVar[int] = 0
    filing: ClassVar[Filing] = "none"
    written = ("key", "value")
    waiting = ()

    @property
    def buffers(self) -> dict[str, Place]:
        """Every buffer of one layer: dtype and shape by the part of it that it holds."""
        rows: Place = ("float16", [1, self.kv_heads, self.slots, self.head_dim])
        return {"key": rows, "value": rows}

    @property
    def group(self) -> dict[str, Place]:
        """Nothing is packed."""
        return {}


class Fp16PromptAttention(PromptAttention):
    """Leaves the prompt's rows in the first slots."""

    shape: Fp16Shape

    def fill(
        self, query: Tensor, key: Tensor, value: Tensor, scaling: float, last: Tensor
    ) -> tuple[Tensor, ...]:
        key, value = zero_padding(key, value, torch.arange(key.shape[2]) <= last)
        more = self.shape.slots - key.shape[2]  # an answer follows the longest prompt
        return tuple(functional.pad(rows, (0, 0, 0, more)).half() for rows in (key, value))


@dataclass
class Fp16Attention(RowAttention):
    """Over all rows, the new one among them.

    Args:
        past: per layer keys and values, float16 [1, G, C, H].
    """

    shape: Fp16Shape
    past: list[tuple[Tensor, ...]]

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        layer = len(self.present)
        query, key = self.rotate(query, layer), self.rotate(key, layer)
        count = self.counts[layer]
        place = count.reshape(1, 1, 1, 1).expand(key.shape)
        pairs = zip(self.past[layer], (key, value), strict=True)
        keys, values = (held.scatter(2, place, row.half()) for held, row in pairs)
        self.present.append((keys, values))
        true = torch.arange(self.shape.slots) <= count
        return attend_row(query * scaling, keys[0].float(), values[0].float(), true)[0]


class Fp16Prefill(RingPrefill):
    """A prompt of a float16 cache."""

    attention = Fp16PromptAttention


class Fp16Decode(RingDecode):
    """A step of a float16 cache."""

    attention = Fp16Attention
