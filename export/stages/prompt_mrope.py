"""Prompts whose rows have rotary positions on three axes: time, line and column (Qwen-VL).

A row of text has its number on all axes. Those of the image share the number of the first one as
their time, and have their token's line and column on top of it; text goes on after the longer side
of the image. So every token keeps the place that it has in the image, whatever was taken away,
and rows after the image are `shift` away from their number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgetok import names
from edgetok.export.stages.decoder import Decoder, DecoderContext
from edgetok.families.parts import Grid


class MropePrefill(Decoder):
    """Embeddings [1, S, D], padded on the right -> logits [1, W] of the last row, and the cache.

    Args:
        rows: S.
        grid: lines and columns of the image's tokens.
        visual: K, the rows of the image.
        deep: layers after which something is added to those rows (DeepStack).
    """

    def __init__(
        self, context: DecoderContext, rows: int, grid: Grid, visual: int, deep: int = 0
    ) -> None:
        super().__init__(context)
        self.rows, self.grid, self.visual, self.deep = rows, grid, visual, deep

    @property
    def inputs(self) -> dict[str, Tensor]:
        told = {
            names.VISUAL_START: torch.zeros(1, dtype=torch.int64),
            names.VISUAL_KEPT: torch.zeros(self.visual, dtype=torch.int64),
        }
        if self.deep:
            told[names.VISUAL_DEEP] = torch.zeros(self.visual, self.deep * self.text.hidden)
        return self.context.prompt(self.rows) | told | self.context.past()

    def forward(
        self, embeds: Tensor, last: Tensor, lengths: Tensor, start: Tensor, kept: Tensor, *rest: Any
    ) -> Any:
        """`rest` begins with what is added after the first layers, where there is something."""
        past = rest[1:] if self.deep else rest
        places = self._places(embeds.shape[1], start, kept)
        rotated = [self._rotate(table, places) for table in self._rotary()[0]]
        attention = self.lowering.attention(
            self.by_layer(past),
            lengths,
            None,
            [(rotated[0], rotated[1])] * len(self.text.layers),
            self._scales(),
            rows_at=torch.arange(embeds.shape[1]),  # the tables are those of the rows
        )
        added = self._spread(rest[0], embeds.shape[1], start) if self.deep else []

        def after(number: int, rows: Tensor) -> Tensor:
            return rows + added[number] if number < len(added) else rows

        rows = self.attend(embeds, attention, after)
        held = [buffer for buffers in attention.present for buffer in buffers]
        return self.read_logits(rows[0].index_select(0, last)), *held

    def _places(self, count: int, start: Tensor, kept: Tensor) -> list[Tensor]:
        """Time, line and column of each row, int64 [S]."""
        row, (down, across) = torch.arange(count), self.grid
        place = row - start
        inside = (place >= 0) & (place < self.visual)
        token = kept.clamp(min=0).index_select(0, place.clamp(0, self.visual - 1))
        text = torch.where(place < 0, row, row + max(down, across) - self.visual)
        offsets = (torch.zeros_like(token), token // across, token % across)
        return [torch.where(inside, start + offset, text) for offset in offsets]

    def _spread(self, deep: Tensor, count: int, start: Tensor) -> list[Tensor]:
        """[K, layers * D] -> for each layer [1, S, D], zero where there is no image."""
        place = torch.arange(count) - start
        inside = ((place >= 0) & (place < self.visual)).unsqueeze(1)
        rows = deep.index_select(0, place.clamp(0, self.visual - 1))
        return [part[None] for part in torch.where(inside, rows, 0.0).chunk(self.deep, dim=1)]

    def _rotate(self, table: Tensor, places: list[Tensor]) -> Tensor:
        """[positions, H / 2] -> [S, H / 2], each channel by its axis."""
        axis = torch.tensor(self.text.mrope_axes)
        time, line, column = (table.index_select(0, place) for place in places)
        return torch.where(axis == 0, time, torch.where(axis == 1, line, column))
