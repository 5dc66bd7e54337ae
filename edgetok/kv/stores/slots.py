"""Rows of 8 or 4 bits with a scale per slot and head, channels made alike by a constant.

A scale that belongs to one row survives whatever becomes of the rows beside it: rows can be
dropped, moved and overwritten. Channels of keys differ in size far more than rows do, so each is
divided by a calibrated constant first, the static equaliser (methods-model.md 3.0). What reads the
rows multiplies by it: queries after rotary embedding, the output projection for values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

BITS = {"int8": 8, "int4": 4}
SMALLEST_SCALE = 1e-8  # of a row of zeros, which stays zero
SMALLEST_SHARE = 1e-3  # of the largest constant: a channel that samples never used must not rule


def build_equaliser(largest: Tensor) -> Tensor:
    """Constants that channels are divided by: those of a head are largest 1.

    Args:
        largest: float32 [1, G, 1, H], what is measured of each channel, up to a factor per head.
    """
    share = largest / largest.amax(-1, keepdim=True)
    return share.clamp(min=SMALLEST_SHARE)


def width_of(head_dim: int, bits: int) -> int:
    """Bytes that the levels of one row and head take."""
    return head_dim * bits // 8


def quantize_rows(rows: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Rows, divided by their equaliser, to levels and scales.

    Symmetric, from -127 to 127 or -7 to 7. At 4 bits a byte holds channel i in its low half, plus
    8, and channel i + H / 2 in its high half: int8 all the same, since TensorRT computes with no
    unsigned bytes.

    Args:
        rows: float32 [1, G, S, H].

    Returns:
        int8 [1, G, S, H] or [1, G, S, H / 2], and float32 [1, G, S, 1].
    """
    import torch

    top = 2 ** (bits - 1) - 1
    scales = (rows.abs().amax(-1, keepdim=True) / top).clamp(min=SMALLEST_SCALE)
    levels = torch.round(rows / scales)
    if bits == 4:
        low, high = levels.chunk(2, dim=-1)
        levels = high * 16 + (low + 8)
    return levels.to(torch.int8), scales


def dequantize_rows(levels: Tensor, scales: Tensor, bits: int) -> Tensor:
    """The inverse of `quantize_rows` up to rounding: float32 [1, G, S, H]."""
    import torch

    values = levels.to(torch.float32)
    if bits == 4:  # without shifts, which TensorRT lacks
        high = torch.floor(values * (1 / 16))
        values = torch.cat([values - high * 16 - 8, high], dim=-1)
    return values * scales
