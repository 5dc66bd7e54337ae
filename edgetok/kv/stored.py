"""Rows as an integer cache holds them: int8, or two int4 in a byte, with a constant scale."""

from __future__ import annotations

import torch
from torch import Tensor

LOWEST = {8: -128, 4: -8}


def store(rows: Tensor, scale: Tensor, bits: int) -> Tensor:
    """float32 [G, n, H] -> int8 [G, n, H], or uint8 [G, n, H / 2]; scale [G, 1, H]."""
    return pack(round_levels(rows / scale, bits), bits)


def round_levels(rows: Tensor, bits: int) -> Tensor:
    """To whole levels that `bits` can hold, still float32."""
    return rows.round().clamp(LOWEST[bits], -LOWEST[bits] - 1)


def pack(levels: Tensor, bits: int) -> Tensor:
    """Levels as bytes: of a pair of channels at 4 bits, the even one lies in the low half."""
    if bits == 8:
        return levels.to(torch.int8)
    pairs = (levels + 8).reshape(*levels.shape[:-1], levels.shape[-1] // 2, 2)
    packed: Tensor = pairs[..., 0] + 16 * pairs[..., 1]
    return packed.to(torch.uint8)


def unpack(rows: Tensor, bits: int) -> Tensor:
    """Bytes as float32 levels: int8 [G, n, H] or uint8 [G, n, H / 2] -> [G, n, H]."""
    levels = rows.float()
    if bits == 8:
        return levels
    high = (levels / 16).floor()
    return torch.stack([levels - 16 * high, high], -1).flatten(-2) - 8
