"""The prefill stage of a bundle that takes visual tokens away between the layers of the decoder.

Hugging Face's own layers are traced; `edgetok.export.stages.prompt_rows` says how rows lie and what
is gathered.
`names.VISUAL_START` says where the visual rows begin. How many rows a layer sees is a constant.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from edgetok import names
from edgetok.export.attention import (
    emitting,
    merge_heads,
    replaced_forward,
)
from edgetok.export.stages.decoder import Decoder, DecoderContext
from edgetok.export.stages.prompt_probes import Peek, PromptAttention, of_rows, recorded_gates
from edgetok.export.stages.prompt_rows import Rows, surviving_rows, text_rows, weave
from edgetok.families.internals import without_rotation
from edgetok.prefill import Prefill
from edgetok.prefill.look import Look
from edgetok.prefill.probes import Probe, Span

_PREVIOUS, _NEXT = "previous attention", "next attention"


class ReducingPrefill(Decoder):
    """Embeddings [1, S, D], padded on the right -> logits [1, W] of the last row, and the cache.

    Args:
        rows: S.
        visual: K, the visual rows that come in.
    """

    def __init__(self, context: DecoderContext, prefill: Prefill, rows: int, visual: int) -> None:
        super().__init__(context)
        layers = len(self.text.layers)
        self.prefill, self.method = prefill, prefill.method
        self.counts, self.skips = prefill.counts(layers, visual), prefill.skips(layers)
        self.held = prefill.held.counts(self.counts)
        self.rows, self.visual = rows, visual

    @property
    def inputs(self) -> dict[str, Tensor]:
        start = {names.VISUAL_START: torch.zeros(1, dtype=torch.int64)}
        return self.context.prompt(self.rows) | start | self.context.past()

    def forward(
        self, embeds: Tensor, last: Tensor, lengths: Tensor, start: Tensor, *past: Tensor
    ) -> Any:
        rows = self._begin(embeds, last, start)
        first = rows
        buffers = self.by_layer(past)
        attention = PromptAttention(
            self.lowering.attention(
                [self._past_of(number, held, rows) for number, held in enumerate(buffers)],
                self._seen_lengths(lengths),
                *(None, self._rotary(), self._scales()),
            ),
            self.lowering,
        )
        seen_rows: list[Rows] = []
        gates: Tensor | None = None
        kept: list[Tensor] = []
        with (
            emitting(self.model, attention),
            without_rotation(self.text.layers),
            self.lowering.norms(self.model),
        ):
            for number, layer in enumerate(self.text.layers):
                if self.counts[number] < rows.span.visual:
                    seen = (attention.seen, gates)
                    rows = self._cut(number, rows, first, seen)
                    kept += [rows.left] if rows.span.visual else []
                seen_rows.append(rows)
                with recorded_gates(layer, self._reads_gates(number)) as found:
                    rows = replace(rows, x=self._run_layer(number, layer, rows, attention))
                gates = found()
        settled = [
            self._settle(number, held, attention.cache, seen_rows[number], rows)
            for number, held in enumerate(buffers)
        ]
        present = [buffer for held in settled for buffer in held]
        row = rows.x[0].index_select(0, rows.span.last)
        return self.read_logits(row), *present, *([torch.cat(kept)] if kept else [])

    @property
    def outputs(self) -> list[str]:
        has_cuts = any(0 < count < self.visual for count in self.counts)
        return [*super().outputs, *([names.PREFILL_KEPT] if has_cuts else [])]

    def _begin(self, embeds: Tensor, last: Tensor, start: Tensor) -> Rows:
        """`last` is that of the last layer, as the host knows it: more rows stand here."""
        count = embeds.shape[1]
        last = last + (self.visual - self.counts[-1])
        span = Span(start, last, self.visual, count - self.visual, count)
        kept = self.method.positions == "kept" and self.counts[-1] < self.visual
        left = torch.arange(self.visual)
        return Rows(embeds, span, torch.arange(count) if kept else None, left)

    # --- a cache that holds less than its layer saw -----------------------------------------------

    def _seen_lengths(self, lengths: Tensor) -> Tensor:
        """True rows of each layer minus one while it attends, from those that its cache keeps."""
        if self.held == self.counts:
            return lengths
        gone = [seen - kept for seen, kept in zip(self.counts, self.held, strict=True)]
        return lengths + torch.tensor(gone, dtype=torch.int32)

    def _past_of(self, number: int, past: tuple[Tensor, ...], first: Rows) -> tuple[Tensor, ...]:
        """What a layer's attention begins with: its buffers, or room for rows to choose from."""
        if self.held[number] == self.counts[number]:
            return past
        return self.lowering.scratch(past, first.span.rows - (self.visual - self.counts[number]))

    def _settle(
        self, number: int, past: tuple[Tensor, ...], cache: Any, seen: Rows, last: Rows
    ) -> tuple[Tensor, ...]:
        """The buffers of a layer after the graph, with the rows alone that are left at the end."""
        found: tuple[Tensor, ...] = cache.present[number]
        if self.held[number] == self.counts[number]:
            return found
        order, start = surviving_rows(seen, last), torch.zeros(1, dtype=torch.int64)
        rows = tuple(buffer.index_select(2, order) for buffer in found)
        filed: tuple[Tensor, ...] = cache.file(past, rows, start)
        return filed

    def _reads_gates(self, number: int) -> bool:
        ahead = number + 1 < len(self.counts) and self.counts[number + 1] < self.counts[number]
        return ahead and "gates" in self.method.reads

    def _run_layer(self, number: int, layer: Any, rows: Rows, attention: PromptAttention) -> Tensor:
        attention.cache.rows_at = None if rows.span.visual == self.visual else rows.positions
        angles = (torch.zeros(1), torch.zeros(1))  # rotary happens inside the attention operator
        skip = self.skips[number]
        if not skip:
            out: Tensor = layer(rows.x, attention_mask=None, position_embeddings=angles)
            return out
        text, x = text_rows(rows.span), rows.x
        attention.text_alone = rows.span if skip == "layer" else None
        chosen = [layer.self_attn.o_proj] if skip == "layer" else []
        with replaced_forward(iter(chosen), lambda linear: of_rows(linear, text)):
            normed = layer.input_layernorm(x)
            attended = layer.self_attn(normed, attention_mask=None, position_embeddings=angles)[0]
        attention.text_alone = None
        if skip == "layer":
            middle = x.index_select(1, text) + attended
        else:
            x = x + attended
            middle = x.index_select(1, text)
        fed = middle + layer.mlp(layer.post_attention_layernorm(middle))
        return weave(rows.span, fed, x.index_select(1, rows.span.visual_rows()))

    # --- cuts -------------------------------------------------------------------------------------

    def _cut(self, number: int, rows: Rows, first: Rows, seen: tuple[Any, Tensor | None]) -> Rows:
        keep = self.counts[number]
        if keep == 0:
            return rows.drop_all_vision()
        if self.method.cut is None:
            raise TypeError(f"{self.method.name} has no cut that keeps {keep}")
        previous, gates = seen
        reads = self.method.reads
        look = Look(
            visual=rows.visual(),
            text=rows.text(),
            is_text=rows.span.is_text(),
            visual_input=first.visual(),
            text_input=first.text(),
            previous=self._behind(number - 1, rows, previous) if _PREVIOUS in reads else None,
            next=self._ahead(number, rows) if _NEXT in reads else None,
            gates=None if gates is None else self._pick_gates(rows, gates),
            layer=number,
            norm=self.text.norm,
        )
        return rows.keep(self.method.cut(look, keep))

    def _ahead(self, number: int, rows: Rows) -> Probe:
        """Queries and keys of the layer after the cut, if nothing were cut.

        Queries are projected for the rows that ask, keys for all.
        """
        layer: Any = self.text.layers[number]

        def look(x: Tensor) -> tuple[Tensor, Tensor, float]:
            peek, dummy = Peek(), torch.zeros(1)
            with emitting(self.model, peek):
                normed = layer.input_layernorm(x)
                layer.self_attn(normed, attention_mask=None, position_embeddings=(dummy, dummy))
            return peek.seen

        def ask(asking: Tensor) -> Tensor:
            query, _, scaling = look(rows.x.index_select(1, asking))
            at = rows.at().index_select(0, asking)
            return rotate(merge_heads(query), at, *tables, query.shape[1])[0] * scaling

        tables, rotate = self._rotary()[number], self.lowering.rotate
        key = look(rows.x)[1]
        rotated = rotate(merge_heads(key), rows.at(), *tables, key.shape[1])
        return Probe(ask, rotated[0], rows.span, _places(rows.at(), *tables, key.shape[3]))

    def _behind(self, number: int, rows: Rows, seen: tuple[Tensor, Tensor, float]) -> Probe:
        """Queries and keys [1, heads, S, H] of the layer that has run, not rotated yet."""
        query, key, scaling = seen

        def ask(asking: Tensor) -> Tensor:
            # Of rows as they were projected: the attention operator reads the same.
            chosen = merge_heads(query).index_select(1, asking)
            at = rows.at().index_select(0, asking)
            return rotate(chosen, at, *tables, query.shape[1])[0] * scaling

        tables, rotate = self._rotary()[number], self.lowering.rotate
        rotated = rotate(merge_heads(key), rows.at(), *tables, key.shape[1])
        return Probe(ask, rotated[0], rows.span, _places(rows.at(), *tables, key.shape[3]))

    def _pick_gates(self, rows: Rows, gates: Tensor) -> tuple[Tensor, Tensor]:
        found = gates[0]
        of_last = found.index_select(0, rows.span.last)[0]
        return found.index_select(0, rows.span.visual_rows()), of_last


def _places(at: Tensor, cos: Tensor, sin: Tensor, width: int) -> Tensor:
    """Rows whose products are those of rotated ones, halved: at [S], tables [P, W] -> [S, 2 W + 1].

    Of two pairs (1, 1) turned by a and b the product is 2 cos(a - b); channels that are not
    rotated add 1 each.
    """
    still = torch.full((at.shape[0], 1), max(0.0, width / 2 - cos.shape[1]) ** 0.5)
    return torch.cat([cos.index_select(0, at), sin.index_select(0, at), still], 1)
