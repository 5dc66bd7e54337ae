"""Static torch modules of the language model: a prompt, a chunk behind it, a step.

Every module calls Hugging Face's own layers. Shapes are constants: S prefill rows, C cache slots
(see `edgetok.names`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from edgetok import names
from edgetok.export.attention import (
    DecoderSpelling,
    Emitter,
    emitting,
    rotary_inside,
)
from edgetok.export.lowering.ort import spelling_of
from edgetok.export.stages.short_convolutions import Convolutions, name_cache_argument
from edgetok.families.parts import UNTURNED, TextParts


class Decoder(nn.Module):
    """Rows through all decoder layers over the KV buffer; shared by prefill and decode."""

    def __init__(
        self,
        text: TextParts,
        positions: int,
        scales: list[tuple[Tensor, Tensor]] | None,
        spelling: DecoderSpelling | None = None,
    ) -> None:
        super().__init__()
        self.spelling = spelling or spelling_of("fp32")
        self.model, self.head = text.model, text.head
        self.text = text
        for kind in sorted(set(text.rotary_kinds)) or [""]:
            cos, sin = rotary_tables(text, positions, kind)
            self.register_buffer(f"cos{kind}", cos)
            self.register_buffer(f"sin{kind}", sin)
        for layer, (key, value) in enumerate(scales or []):
            self.register_buffer(f"key_scale_{layer}", key)
            self.register_buffer(f"value_scale_{layer}", value)
        self.quantized = scales is not None

    @property
    def outputs(self) -> list[str]:
        past = self.spelling.past(len(self.text.attending))
        past += [names.past_convolution(n) for n in range(len(self.text.convolutions))]
        return [names.LOGITS, *map(names.present_of, past)]

    def run(
        self,
        rows: Tensor,
        lengths: Tensor,
        past: tuple[Tensor, ...],
        positions: Tensor | None = None,
    ) -> Any:
        """rows [1, S, D] -> hidden rows [1, S, D] and the buffers after the call.

        Behind the buffers of rows stand those of short convolutions; rows that begin a cache find
        none.

        Args:
            lengths: int32 [L], true rows of each layer after this call minus one.
            positions: int64 [L, rows] of the rows that are added; None where S rows begin a cache.
        """
        size = len(self.spelling.buffers)
        held, memory = self._split(past)
        buffers = [held[first : first + size] for first in range(0, len(held), size)]
        attention = self.spelling.attention(
            buffers, lengths, positions, self._rotary(), self._scales()
        )
        convolutions = Convolutions(self.text, memory, lengths if positions is None else None)
        rows = self.attend(rows, attention, convolutions=convolutions)
        kept = [buffer for held in attention.present for buffer in held]
        return rows, kept + convolutions.present

    def _split(self, past: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Buffers of rows, and those of convolutions."""
        count = len(self.spelling.buffers) * len(self.text.attending)
        return past[:count], past[count:]

    def attend(
        self,
        rows: Tensor,
        attention: Emitter,
        behind: Callable[[int, Tensor], Tensor] | None = None,
        convolutions: Convolutions | None = None,
    ) -> Tensor:
        """rows [1, S, D] through all layers, their attention spelled by an emitter.

        `behind` may change what a layer, by its number, has made; `convolutions` remember for
        layers that have no attention.
        """
        dummy = torch.zeros(1)  # rotary happens inside the attention operator
        with (
            emitting(self.model, attention),
            rotary_inside(self.text.layers),
            self.spelling.norms(self.model),
        ):
            for number, layer in enumerate(self.text.layers):
                told = {name_cache_argument(layer): convolutions} if self.text.convolutions else {}
                rows = layer(rows, attention_mask=None, position_embeddings=(dummy, dummy), **told)
                rows = rows if behind is None else behind(number, rows)
        return rows

    def read_logits(self, row: Tensor) -> Tensor:
        """The last row [1, D] -> logits [1, W]."""
        with self.spelling.norms(self.model):
            normed = self.text.norm(row)
        logits: Tensor = self.head(normed)
        return logits

    def _rotary(self) -> list[tuple[Tensor, Tensor]]:
        kinds = self.text.rotary_kinds or ("",) * len(self.text.attending)
        return [(getattr(self, f"cos{kind}"), getattr(self, f"sin{kind}")) for kind in kinds]

    def _scales(self) -> list[tuple[Tensor, Tensor]] | None:
        if not self.quantized:
            return None
        return [
            (getattr(self, f"key_scale_{i}"), getattr(self, f"value_scale_{i}"))
            for i in range(len(self.text.attending))
        ]


class Prefill(Decoder):
    """input embeddings [1, S, D], padded on the right -> logits [1, W] of the last true row."""

    def forward(self, embeds: Tensor, last: Tensor, lengths: Tensor, *past: Tensor) -> Any:
        rows, present = self.run(embeds, lengths, past)
        # Rows are gathered before the head: S rows of logits would cost more than a layer.
        return self.read_logits(rows[0].index_select(0, last)), *present


class Extend(Decoder):
    """A chunk [1, R, D] of true rows behind those of the cache -> logits [1, W] of its last row."""

    def forward(self, embeds: Tensor, lengths: Tensor, positions: Tensor, *past: Tensor) -> Any:
        rows, present = self.run(embeds, lengths, past, positions)
        return self.read_logits(rows[0, -1:]), *present


class Decode(Decoder):
    """One token id [1, 1] -> logits [1, W]."""

    def forward(self, token: Tensor, lengths: Tensor, positions: Tensor, *past: Tensor) -> Any:
        rows, present = self.run(self.text.embed(token), lengths, past, positions)
        return self.read_logits(rows[0]), *present


def rotary_tables(text: TextParts, count: int, kind: str = "") -> tuple[Tensor, Tensor]:
    """cos and sin of positions from 0, [count, turned channels / 2], by the model's own module.

    `kind` is one of `text.rotary_kinds`, where there are several.
    """
    if kind == UNTURNED:  # the operator turns rows by nothing
        shape = (count, text.rotary_dim // 2)
        return torch.ones(shape), torch.zeros(shape)
    positions = torch.arange(count)[None]
    which = {"layer_type": kind} if kind else {}
    cos, sin = text.rotary(torch.zeros(1, 1, text.hidden), position_ids=positions, **which)
    half = cos.shape[-1] // 2  # the two halves repeat each other
    return cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous()
