"""Static torch modules of the language model: a prompt, a chunk after it, a step.

Every module calls Hugging Face's own layers. Shapes are constants: S prefill rows, C cache slots
(see `edgetok.names`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgetok import names
from edgetok.export.attention import (
    DecoderLowering,
    Emitter,
    Scales,
    StageModule,
    emitting,
)
from edgetok.export.stages.short_convolutions import Convolutions
from edgetok.families.internals import name_cache_argument, without_rotation
from edgetok.families.parts import UNROTATED, TextParts


@dataclass(frozen=True)
class DecoderContext:
    """What all graphs of a decoder have in common.

    Args:
        positions: rotary positions that the tables hold.
        slots: rows that each layer's cache holds.
        lowering: of one flavour.
        scales: of a cache in whole numbers.
    """

    text: TextParts
    positions: int
    slots: tuple[int, ...]
    lowering: DecoderLowering
    scales: Scales | None = None

    @property
    def layers(self) -> int:
        return len(self.text.attending)

    def past(self) -> dict[str, Tensor]:
        """Empty buffers of keys and values, by name."""
        found = {}
        for layer, slots in enumerate(self.slots):
            for buffer in self.lowering.buffers:
                shape = (1, self.text.kv_heads, slots, buffer.width(self.text.head_dim))
                found[buffer.name(layer)] = torch.zeros(shape, dtype=buffer.dtype)
        return found

    def memory(self) -> dict[str, Tensor]:
        """What short convolutions remember."""
        shape = (1, self.text.hidden, self.text.kernel - 1)
        numbers = range(len(self.text.convolutions))
        return {names.past_convolution(number): torch.zeros(shape) for number in numbers}

    def prompt(self, rows: int) -> dict[str, Tensor]:
        """What every prefill graph is told of a prompt of so many rows."""
        return {
            names.INPUT_EMBEDS: torch.zeros(1, rows, self.text.hidden),
            names.LAST_ROW: torch.zeros(1, dtype=torch.int64),
            names.PAST_LENGTHS: torch.zeros(self.layers, dtype=torch.int32),
        }

    def step(self) -> dict[str, Tensor]:
        """What every decode graph is told of a token."""
        return {
            names.TOKEN_ID: torch.zeros(1, 1, dtype=torch.int64),
            names.PAST_LENGTHS: torch.zeros(self.layers, dtype=torch.int32),
            names.POSITIONS: torch.zeros(self.layers, 1, dtype=torch.int64),
        }


class Decoder(StageModule):
    """Rows through all decoder layers over the KV buffer; shared by prefill and decode."""

    def __init__(self, context: DecoderContext) -> None:
        super().__init__()
        text = context.text
        self.context, self.lowering = context, context.lowering
        self.model, self.head = text.model, text.head
        self.text = text
        for kind in sorted(set(text.rotary_kinds)) or [""]:
            cos, sin = rotary_tables(text, context.positions, kind)
            self.register_buffer(f"cos{kind}", cos)
            self.register_buffer(f"sin{kind}", sin)
        for layer, (key, value) in enumerate(context.scales or []):
            self.register_buffer(f"key_scale_{layer}", key)
            self.register_buffer(f"value_scale_{layer}", value)
        self.quantized = context.scales is not None

    @property
    def outputs(self) -> list[str]:
        past = self.lowering.past(self.context.layers)
        past += [names.past_convolution(n) for n in range(len(self.text.convolutions))]
        return [names.LOGITS, *map(names.present_of, past)]

    def tracing(self) -> AbstractContextManager[None]:
        return self.lowering.folded(self.text.attending, self.context.scales)

    def run(
        self,
        rows: Tensor,
        lengths: Tensor,
        past: tuple[Tensor, ...],
        positions: Tensor | None = None,
    ) -> Any:
        """rows [1, S, D] -> hidden rows [1, S, D] and the buffers after the call.

        After the buffers of rows stand those of short convolutions; rows that begin a cache find
        none.

        Args:
            lengths: int32 [L], true rows of each layer after this call minus one.
            positions: int64 [L, rows] of the rows that are added; None where S rows begin a cache.
        """
        held, memory = self._split(past)
        attention = self.lowering.attention(
            self.by_layer(held), lengths, positions, self._rotary(), self._scales()
        )
        convolutions = Convolutions(self.text, memory, lengths if positions is None else None)
        rows = self.attend(rows, attention, convolutions=convolutions)
        kept = [buffer for held in attention.present for buffer in held]
        return rows, kept + convolutions.present

    def by_layer(self, past: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
        """Buffers layer by layer."""
        size = len(self.lowering.buffers)
        return [past[first : first + size] for first in range(0, len(past), size)]

    def _split(self, past: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Buffers of rows, and those of convolutions."""
        count = len(self.lowering.buffers) * self.context.layers
        return past[:count], past[count:]

    def attend(
        self,
        rows: Tensor,
        attention: Emitter,
        after: Callable[[int, Tensor], Tensor] | None = None,
        convolutions: Convolutions | None = None,
    ) -> Tensor:
        """rows [1, S, D] through all layers, their attention lowered by an emitter.

        `after` may change what a layer, by its number, has made; `convolutions` remember for
        layers that have no attention.
        """
        dummy = torch.zeros(1)  # rotary happens inside the attention operator
        with (
            emitting(self.model, attention),
            without_rotation(self.text.layers),
            self.lowering.norms(self.model),
        ):
            for number, layer in enumerate(self.text.layers):
                told = {name_cache_argument(layer): convolutions} if self.text.convolutions else {}
                rows = layer(rows, attention_mask=None, position_embeddings=(dummy, dummy), **told)
                rows = rows if after is None else after(number, rows)
        return rows

    def read_logits(self, row: Tensor) -> Tensor:
        """The last row [1, D] -> logits [1, W]."""
        with self.lowering.norms(self.model):
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
    """input embeddings [1, S, D], padded on the right -> logits [1, W] of the last true row.

    Args:
        rows: S.
    """

    def __init__(self, context: DecoderContext, rows: int) -> None:
        super().__init__(context)
        self.rows = rows

    @property
    def inputs(self) -> dict[str, Tensor]:
        return self.context.prompt(self.rows) | self.context.past()

    def forward(self, embeds: Tensor, last: Tensor, lengths: Tensor, *past: Tensor) -> Any:
        rows, present = self.run(embeds, lengths, past)
        # Rows are gathered before the head: S rows of logits would cost more than a layer.
        return self.read_logits(rows[0].index_select(0, last)), *present


class Extend(Decoder):
    """A chunk [1, R, D] of true rows after those of the cache -> logits [1, W] of its last row.

    Args:
        rows: R.
    """

    def __init__(self, context: DecoderContext, rows: int) -> None:
        super().__init__(context)
        self.rows = rows

    @property
    def inputs(self) -> dict[str, Tensor]:
        layers = self.context.layers
        told = {
            names.CHUNK_EMBEDS: torch.zeros(1, self.rows, self.text.hidden),
            names.PAST_LENGTHS: torch.zeros(layers, dtype=torch.int32),
            names.CHUNK_POSITIONS: torch.zeros(layers, self.rows, dtype=torch.int64),
        }
        return told | self.context.past() | self.context.memory()

    def forward(self, embeds: Tensor, lengths: Tensor, positions: Tensor, *past: Tensor) -> Any:
        rows, present = self.run(embeds, lengths, past, positions)
        return self.read_logits(rows[0, -1:]), *present


class Decode(Decoder):
    """One token id [1, 1] -> logits [1, W]."""

    @property
    def inputs(self) -> dict[str, Tensor]:
        return self.context.step() | self.context.past() | self.context.memory()

    def forward(self, token: Tensor, lengths: Tensor, positions: Tensor, *past: Tensor) -> Any:
        rows, present = self.run(self.text.embed(token), lengths, past, positions)
        return self.read_logits(rows[0]), *present


def rotary_tables(text: TextParts, count: int, kind: str = "") -> tuple[Tensor, Tensor]:
    """cos and sin of positions from 0, [count, turned channels / 2], by the model's own module.

    `kind` is one of `text.rotary_kinds`, where there are several.
    """
    if kind == UNROTATED:  # the operator turns rows by nothing
        shape = (count, text.rotary_dim // 2)
        return torch.ones(shape), torch.zeros(shape)
    positions = torch.arange(count)[None]
    which = {"layer_type": kind} if kind else {}
    cos, sin = text.rotary(torch.zeros(1, 1, text.hidden), position_ids=positions, **which)
    half = cos.shape[-1] // 2  # the two halves repeat each other
    return cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous()
