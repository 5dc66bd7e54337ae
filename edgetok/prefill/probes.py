"""Attention of a few rows beside a fused operator: what a cut reads, in graphs.

Softmax runs over all rows that the asking row may see, as in the model; only the visual columns of
its result are handed on. Nothing here makes more rows of attention than the method asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

HIDDEN = -1e9  # of a row that may not be seen: finite, and exp of it is 0


@dataclass(frozen=True)
class Span:
    """Where things stand among S rows: text, K visual rows, T rows of room for text, padding.

    Args:
        start: int64 [1], the first visual row.
        last: int64 [1], the last row that is no padding.
        visual: K.
        text: T, as many rows as text can have behind the image.
        rows: S.
    """

    start: Tensor
    last: Tensor
    visual: int
    text: int
    rows: int

    def visual_rows(self) -> Tensor:
        """Indices of the visual rows, int64 [K]."""
        import torch

        return self.start + torch.arange(self.visual)

    def text_rows(self) -> Tensor:
        """Indices of the room behind the image, int64 [T]; what would lie outside is the last."""
        import torch

        return (self.start + self.visual + torch.arange(self.text)).clamp(max=self.rows - 1)

    def is_text(self) -> Tensor:
        """1 at those of `text_rows` that are text, float32 [T]."""
        import torch

        return ((self.start + self.visual + torch.arange(self.text)) <= self.last).float()

    def is_row(self) -> Tensor:
        """1 at the rows that are no padding, float32 [S]."""
        import torch

        return (torch.arange(self.rows) <= self.last).float()


@dataclass(frozen=True)
class Probe:
    """Implements `look.Attention` over one layer's queries and keys.

    Args:
        ask: row indices [R] -> their queries [heads, R, H], rotated and scaled; called once for
            the rows that a method asks from, so that no others need be projected.
        key: [key/value heads, S, H], rotated.
        places: [S, P], rows whose products are what rotary positions alone compare; None where
            nobody asks for them.
    """

    ask: Callable[[Tensor], Tensor]
    key: Tensor
    span: Span
    places: Tensor | None = None

    def from_last(self) -> Tensor:
        return self._visual_columns(self.attend(self.span.last))[:, 0]

    def from_text(self) -> Tensor:
        found = self._visual_columns(self.attend(self.span.text_rows()))
        return found * self.span.is_text().reshape(1, -1, 1)

    def from_visual(self) -> Tensor:
        return self._visual_columns(self.attend(self.span.visual_rows()))

    def whole(self) -> Tensor:
        import torch

        attended = self.attend(torch.arange(self.span.rows))
        return attended * self.span.is_row().reshape(1, -1, 1)

    def visual_keys(self) -> Tensor:
        return self.key.index_select(1, self.span.visual_rows())

    def text_keys(self) -> Tensor:
        return self.key.index_select(1, self.span.text_rows())

    def from_positions(self) -> Tensor:
        import torch

        if self.places is None:
            raise TypeError("this probe was made without positions")
        asking, asked = self.span.text_rows(), self.span.visual_rows()
        found = self.places.index_select(0, asking) @ self.places.index_select(0, asked).T
        return torch.where(self.span.is_text().unsqueeze(1) > 0, found, 1.0)

    def place_visual(self, scores: Tensor) -> Tensor:
        return scores.index_select(0, self.span.visual_rows())

    def is_row(self) -> Tensor:
        return self.span.is_row()

    def _visual_columns(self, attended: Tensor) -> Tensor:
        return attended.index_select(2, self.span.visual_rows())

    def attend(self, rows: Tensor) -> Tensor:
        """Causal attention of the rows [R] to all: [heads, R, S]."""
        import torch

        asking = self.ask(rows)
        heads, groups = asking.shape[0], self.key.shape[0]
        shared = asking.reshape(groups, -1, asking.shape[2])  # the heads of a group, one by one
        scores = (shared @ self.key.transpose(1, 2)).reshape(heads, -1, self.span.rows)
        seen = torch.arange(self.span.rows).unsqueeze(0) <= rows.unsqueeze(1)
        return torch.softmax(torch.where(seen, scores, HIDDEN).float(), dim=-1)
