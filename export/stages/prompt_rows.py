"""Rows of a prompt between decoder layers: gathered, dropped, and woven together again.

They lie as `text, K visual rows, text, padding` at every layer; the rows before the image stay
where they are, so its first row has one number at all layers. All counts are constants.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edgetok.prefill.probes import Span
from edgetok.tokens import Plan


@dataclass(frozen=True)
class Rows:
    """Hidden rows [1, S, D] on their way, where they are, and their rotary positions.

    Args:
        positions: int64 [S] where rows keep those they had, None where they are counted anew.
        left: int64 [K], which of the rows that came in each visual row is, or is centred on.
    """

    x: Tensor
    span: Span
    positions: Tensor | None
    left: Tensor

    def at(self) -> Tensor:
        """Rotary positions, int64 [S]."""
        return torch.arange(self.span.rows) if self.positions is None else self.positions

    def visual(self) -> Tensor:
        """[K, D]."""
        return self.x[0].index_select(0, self.span.visual_rows())

    def text(self) -> Tensor:
        """[T, D], the room after the image."""
        return self.x[0].index_select(0, self.span.text_rows())

    def keep(self, plan: Plan) -> Rows:
        """`gather_at`: the visual rows that a plan leaves or makes, in its order."""
        count, places = plan.indices.shape[0], plan.indices
        span = _shorten(self.span, count)
        source, x = _order(self.span, span, self.span.start + _entries(span, places)), self.x[0]
        if plan.weights is not None:
            mixed = torch.cat([x, plan.apply(self.visual())])
            made = self.span.rows + _entries(span, torch.arange(count))
            x, picked = mixed, _order(self.span, span, made)
        else:
            picked = source
        positions = None if self.positions is None else self.positions.index_select(0, source)
        x = x.index_select(0, picked).unsqueeze(0)
        return Rows(x, span, positions, self.left.index_select(0, places))

    def drop_all_vision(self) -> Rows:
        """`drop_all_vision_at`: text alone goes on."""
        span = _shorten(self.span, 0)
        source = _order(self.span, span, None)
        positions = None if self.positions is None else self.positions.index_select(0, source)
        return Rows(self.x.index_select(1, source), span, positions, self.left[:0])


def _shorten(span: Span, visual: int) -> Span:
    gone = span.visual - visual
    return replace(span, last=span.last - gone, visual=visual, rows=span.rows - gone)


def _entries(span: Span, values: Tensor) -> Tensor:
    """For each row of `span`, the entry of `values` [K] that its place among them has: [S]."""
    place = (torch.arange(span.rows) - span.start).clamp(0, span.visual - 1)
    return values.index_select(0, place)


def _order(old: Span, new: Span, visual: Tensor | None) -> Tensor:
    """Which of the old rows each new row is, int64 [S']: text as it was, `visual` [S'] between."""
    row = torch.arange(new.rows)
    behind = torch.where(row < new.start, row, row + (old.visual - new.visual))
    if visual is None:
        return behind
    inside = (row >= new.start) & (row < new.start + new.visual)
    return torch.where(inside, visual, behind)


def surviving_rows(seen: Rows, last: Rows) -> Tensor:
    """Of rows that a layer saw, those that are left after a later cut: int64 [S'].

    Cuts between them must have gathered: a mixture is no row that there was.
    """
    if last.span.visual == 0:
        return text_rows(seen.span)
    places = (seen.left == last.left.unsqueeze(1)).float().argmax(1)  # [K']
    return _order(seen.span, last.span, seen.span.start + _entries(last.span, places))


def text_rows(span: Span) -> Tensor:
    """All rows but the visual ones, int64 [S - K]: before the image, after it, padding."""
    return _order(span, _shorten(span, 0), None)


def weave(span: Span, text: Tensor, visual: Tensor) -> Tensor:
    """Text rows [1, S - K, D] around visual rows [1, K, D]: -> [1, S, D]."""
    row, count = torch.arange(span.rows), span.rows - span.visual
    behind = torch.where(row < span.start, row, row - span.visual)
    inside = (row >= span.start) & (row < span.start + span.visual)
    order = torch.where(inside, count + row - span.start, behind)
    return torch.cat([text, visual], dim=1).index_select(1, order)
