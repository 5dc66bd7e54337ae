"""Prefill in segments: static graphs between the layers before which visual tokens may leave.

From each candidate layer on there are two graphs: one goes on with all rows, one with text alone.
The first of a prompt's graphs is stage `prefill`; those after it are `segment` (of a rung) and
`exited` (of all rungs, since text rows are as many in each). A graph with visual rows ends with its
hidden rows, the same without the visual ones, and the signal; the host reads the signal and runs
one of the two that follow. The last layer's graphs give logits. Rows after an exit keep their
rotary positions, so cache, `extend` and `decode` know nothing of it but the lengths of layers.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from edgetok import names
from edgetok.export.attention import emitting
from edgetok.export.stages.decoder import DecoderContext
from edgetok.export.stages.prompt_probes import PromptAttention
from edgetok.export.stages.prompt_reduced import ReducingPrefill
from edgetok.export.stages.prompt_rows import Rows
from edgetok.families.internals import without_rotation
from edgetok.prefill import Prefill
from edgetok.prefill.look import Look
from edgetok.prefill.probes import Span


def list_segments(prefill: Prefill | None, layers: int) -> list[range]:
    """Layers of each graph of a prefill in segments; nothing where it is one graph."""
    exits = () if prefill is None else prefill.exits(layers)
    return [range(*ends) for ends in pairwise((0, *exits, layers))] if exits else []


class Segment(ReducingPrefill):
    """Layers `part` over rows [1, S, D] of a rung, K of them visual."""

    def __init__(
        self, context: DecoderContext, prefill: Prefill, rows: int, visual: int, part: range
    ) -> None:
        super().__init__(context, prefill, rows, visual)
        self.part = part

    @property
    def inputs(self) -> dict[str, Tensor]:
        told = self.context.prompt(self.rows)
        x = told.pop(names.INPUT_EMBEDS)
        start = {names.VISUAL_START: torch.zeros(1, dtype=torch.int64)}
        return {self.first: x} | told | ({} if self.is_last else start) | self.past_of_part()

    @property
    def first(self) -> str:
        """What its rows are called."""
        return names.rows_before(self.part.start) if self.part.start else names.INPUT_EMBEDS

    def past_of_part(self) -> dict[str, Tensor]:
        """Buffers of the layers that it runs."""
        past = self.context.past()
        return {n: past[n] for layer in self.part for n in past if n.endswith(f"_{layer}")}

    @property
    def outputs(self) -> list[str]:
        if self.is_last:
            return [names.LOGITS, *self.written]
        stop = self.part.stop
        ends = [names.rows_before(stop), names.text_rows_before(stop), names.EXIT_SIGNAL]
        return [*ends, *self.written]

    @property
    def is_last(self) -> bool:
        return self.part.stop == len(self.text.layers)

    @property
    def written(self) -> list[str]:
        """Buffers of the cache that the graph writes."""
        buffers = self.lowering.buffers
        return [names.present_of(buffer.name(layer)) for layer in self.part for buffer in buffers]

    def forward(self, x: Tensor, last: Tensor, lengths: Tensor, *rest: Tensor) -> Any:
        """`rest`: the first visual row [1], unless the graph is the last; then past buffers."""
        start, past = (last, rest) if self.is_last else (rest[0], rest[1:])
        span = Span(start, last, self.visual, x.shape[1] - self.visual, x.shape[1])
        rows = Rows(x, span, None, torch.arange(self.visual))
        attention, rows = self._through(rows, lengths, past)
        present = [buffer for held in attention.cache.present for buffer in held]
        if self.is_last:
            return self.read_logits(rows.x[0].index_select(0, last)), *present
        signal = self._ask(rows, attention)
        return rows.x, rows.drop_all_vision().x, signal, *present

    def _through(
        self, rows: Rows, lengths: Tensor, past: tuple[Tensor, ...]
    ) -> tuple[PromptAttention, Rows]:
        """The layers of the graph."""
        part, scales = slice(self.part.start, self.part.stop), self._scales()
        cache = self.lowering.attention(
            self.by_layer(past),
            lengths[part],
            None,
            self._rotary()[part],
            scales[part] if scales else None,
        )
        cache.rows_at = rows.positions
        attention, angles = PromptAttention(cache, self.lowering), (torch.zeros(1), torch.zeros(1))
        with (
            emitting(self.model, attention),
            without_rotation(self.text.layers),
            self.lowering.norms(self.model),
        ):
            for layer in self.text.layers[part]:
                x = layer(rows.x, attention_mask=None, position_embeddings=angles)
                rows = replace(rows, x=x)
        return attention, rows

    def _ask(self, rows: Rows, attention: PromptAttention) -> Tensor:
        """The signal before the layer after the graph, [1]."""
        signal, reads = self.method.signal, self.method.reads
        assert signal is not None  # noqa: S101  # or there would be no segments
        behind = self._behind(self.part.stop - 1, rows, attention.seen) if reads else None
        look = Look(
            visual=rows.visual(),
            text=rows.text(),
            is_text=rows.span.is_text(),
            visual_input=rows.visual(),
            text_input=rows.text(),
            previous=behind,
            next=None,
            gates=None,
            layer=self.part.stop,
            norm=self.text.norm,
        )
        return signal(look, self.prefill.ratio)


class ExitedSegment(Segment):
    """Layers `part` over the T rows of text [1, T, D] alone, at positions int64 [T]."""

    @property
    def inputs(self) -> dict[str, Tensor]:
        told = self.context.prompt(self.rows)
        inputs = {names.text_rows_before(self.part.start): told[names.INPUT_EMBEDS]}
        inputs[names.PAST_LENGTHS] = told[names.PAST_LENGTHS]
        inputs[names.TEXT_POSITIONS] = torch.zeros(self.rows, dtype=torch.int64)
        if self.is_last:
            inputs[names.LAST_ROW] = told[names.LAST_ROW]
        return inputs | self.past_of_part()

    @property
    def outputs(self) -> list[str]:
        stop = self.part.stop
        ends = [names.LOGITS] if self.is_last else [names.text_rows_before(stop)]
        return [*ends, *self.written]

    def forward(self, *given: Tensor) -> Any:
        """Rows, lengths, positions; the last row [1], if the graph is the last; past buffers."""
        x, lengths, positions, *more = given
        rest = tuple(more)
        past = rest[1:] if self.is_last else rest
        nowhere = torch.zeros(1, dtype=torch.int64)
        rows = Rows(x, Span(nowhere, nowhere, 0, x.shape[1], x.shape[1]), positions, nowhere[:0])
        attention, rows = self._through(rows, lengths, past)
        present = [buffer for held in attention.cache.present for buffer in held]
        if self.is_last:
            return self.read_logits(rows.x[0].index_select(0, rest[0])), *present
        return rows.x, *present
