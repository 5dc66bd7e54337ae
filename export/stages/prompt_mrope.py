"""Prompts whose rows have rotary positions on three axes: time, line and column (Qwen-VL).

A row of text has its number on all axes. Those of the picture share the number of the first one as
their time, and have their token's line and column on top of it; text goes on behind the longer side
of the picture. So every token keeps the place that it has in the picture, whatever was taken away,
and rows behind the picture are `shift` away from their number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgetok.export.attention import DecoderSpelling
from edgetok.export.stages.decoder import Decoder
from edgetok.families.parts import Grid, TextParts


class MropePrefill(Decoder):
    """Embeddings [1, S, D], padded on the right -> logits [1, W] of the last row, and the cache.

    Args:
        grid: lines and columns of the picture's tokens.
        visual: K, the rows of the picture.
        deep: layers behind which something is added to those rows.
    """

    def __init__(
        self,
        text: TextParts,
        positions: int,
        scales: list[tuple[Tensor, Tensor]] | None,
        spelling: DecoderSpelling,
        grid: Grid,
        visual: int,
        deep: int = 0,
    ) -> None:
        super().__init__(text, positions, scales, spelling)
        self.grid, self.visual, self.deep = grid, visual, deep

    def forward(
        self, embeds: Tensor, last: Tensor, lengths: Tensor, start: Tensor, kept: Tensor, *rest: Any
    ) -> Any:
        """`rest` begins with what is added behind the first layers, where there is something."""
        past = rest[1:] if self.deep else rest
        places = self._places(embeds.shape[1], start, kept)
        turned = [self._turn(table, places) for table in self._rotary()[0]]
        size = len(self.spelling.buffers)
        buffers = [past[first : first + size] for first in range(0, len(past), size)]
        attention = self.spelling.attention(
            buffers,
            lengths,
            None,
            [(turned[0], turned[1])] * len(self.text.layers),
            self._scales(),
            rows_at=torch.arange(embeds.shape[1]),  # the tables are those of the rows
        )
        added = self._spread(rest[0], embeds.shape[1], start) if self.deep else []

        def behind(number: int, rows: Tensor) -> Tensor:
            return rows + added[number] if number < len(added) else rows

        rows = self.attend(embeds, attention, behind)
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
        """[K, layers * D] -> for each layer [1, S, D], zero where there is no picture."""
        place = torch.arange(count) - start
        inside = ((place >= 0) & (place < self.visual)).unsqueeze(1)
        rows = deep.index_select(0, place.clamp(0, self.visual - 1))
        return [part[None] for part in torch.where(inside, rows, 0.0).chunk(self.deep, dim=1)]

    def _turn(self, table: Tensor, places: list[Tensor]) -> Tensor:
        """[positions, H / 2] -> [S, H / 2], each channel by its axis."""
        axis = torch.tensor(self.text.mrope_axes)
        time, line, column = (table.index_select(0, place) for place in places)
        return torch.where(axis == 0, time, torch.where(axis == 1, line, column))
