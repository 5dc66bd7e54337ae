"""What a method may see where it cuts, between two layers of the decoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Attention(Protocol):
    """What one layer's attention says of the K visual tokens that are still there.

    Rows are asked for as a method needs them; a graph computes those and no others. T is the room
    for text behind the image; rows of it that hold no text are zero.
    """

    def from_last(self) -> Tensor:
        """Attention of the last text row, [heads, K]."""
        ...

    def from_text(self) -> Tensor:
        """Attention of the text rows behind the image, [heads, T, K]."""
        ...

    def from_visual(self) -> Tensor:
        """Attention of all visual rows to each other, causal, [heads, K, K]."""
        ...

    def whole(self) -> Tensor:
        """Attention of all rows to all rows, [heads, S, S]; padding attends and counts nothing."""
        ...

    def visual_keys(self) -> Tensor:
        """Keys as attention compares them (rotated), [key/value heads, K, H]."""
        ...

    def text_keys(self) -> Tensor:
        """Keys of the text rows behind the image, rotated, [key/value heads, T, H]."""
        ...

    def from_positions(self) -> Tensor:
        """What attention of text rows to visual ones owes to rotary positions alone, [T, K].

        Products of queries and keys whose entries are all 1 before they are rotated, but for a
        factor; 1 where a row holds no text.
        """
        ...

    def place_visual(self, scores: Tensor) -> Tensor:
        """Of scores of all rows [S], those of the visual rows: [K]."""
        ...

    def is_row(self) -> Tensor:
        """1 at the rows that are no padding, [S] float32."""
        ...


@dataclass(frozen=True)
class Look:
    """All that is known before layer `layer`, of one prompt.

    Args:
        visual: hidden rows [K, D] of the visual tokens.
        text: hidden rows [T, D] behind the image; what stands behind the prompt is finite.
        is_text: [T] float32, 1 at true rows of `text`.
        visual_input, text_input: the same rows as they entered the first layer, [K0, D], [T, D].
        previous: attention of the layer before the cut, where the method reads it.
        next: attention that the layer behind the cut would have without it.
        gates: activations [K, F] of the previous layer's MLP at the visual rows, and [F] at the
            last text row: what its last projection reads.
        layer: the layer behind the cut, from 0.
        norm: the decoder's last norm, of rows [n, D].
    """

    visual: Tensor
    text: Tensor
    is_text: Tensor
    visual_input: Tensor
    text_input: Tensor
    previous: Attention | None
    next: Attention | None
    gates: tuple[Tensor, Tensor] | None
    layer: int
    norm: Callable[[Tensor], Tensor]

    @property
    def before(self) -> Attention:
        """`previous`, of a method that reads it."""
        return _require(self.previous)

    @property
    def behind(self) -> Attention:
        """`next`, of a method that reads it."""
        return _require(self.next)

    @property
    def count(self) -> int:
        """Visual tokens that are still there."""
        return int(self.visual.shape[0])


def _require(attention: Attention | None) -> Attention:
    if attention is None:
        raise TypeError("the method reads attention that its `reads` does not name")
    return attention
