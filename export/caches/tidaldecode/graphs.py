"""Decode over a cache of which a step reads a part: the stage of TidalDecode."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from edgetok import names
from edgetok.export.attention import merge_heads
from edgetok.export.stages.decoder import Decoder, DecoderContext
from edgetok.kv.reading import Reads
from edgetok.kv.stores.tidaldecode import attend, choose_rows


@dataclass
class SharedAttention:
    """Dense up to the first layer that chooses; those after it read what was chosen last.

    Args:
        dense: the emitter of a lowering, which knows how rows are kept.
        held: int64 [1], rows that each layer holds before this one.
    """

    dense: Any
    reads: Reads
    held: Tensor
    chosen: list[Tensor] = field(default_factory=list)  # of each layer that chose, [G, k]

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        layer = len(self.dense.present)
        if layer in self.reads.selects:
            return self._choose(module, query, key, value, scaling)
        if not self.chosen:
            rows: Tensor = self.dense(module, query, key, value, scaling)
            return rows
        query = self.dense.append(query, key, value)
        rows = self.chosen[-1]
        keys, values = self.dense.pick(rows.clamp(min=0))
        return merge_heads(attend(query * scaling, keys, values, rows >= 0))

    def _choose(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        self.dense.weighed = []
        rows: Tensor = self.dense(module, query, key, value, scaling)
        weights = self.dense.weighed[0].reshape(key.shape[1], -1, self.dense.weighed[0].shape[3])
        self.chosen.append(choose_rows(weights, self.held, self.reads.count))
        self.dense.weighed = None
        return rows


class TidalDecode(Decoder):
    """One token id [1, 1] -> logits [1, W], and which rows were read: [selections, G, k]."""

    def __init__(self, context: DecoderContext, reads: Reads) -> None:
        super().__init__(context)
        self.reads = reads

    @property
    def inputs(self) -> dict[str, Tensor]:
        return self.context.step() | self.context.past()

    @property
    def outputs(self) -> list[str]:
        return [*super().outputs, names.DECODE_READ]

    def forward(self, token: Tensor, lengths: Tensor, positions: Tensor, *past: Tensor) -> Any:
        given = lengths, positions, self._rotary(), self._scales()
        dense = self.lowering.attention(self.by_layer(past), *given)
        attention = SharedAttention(dense, self.reads, lengths[:1].long())
        rows = self.attend(self.text.embed(token), attention)
        held = [buffer for written in dense.present for buffer in written]
        return self.read_logits(rows[0]), *held, torch.stack(attention.chosen)
