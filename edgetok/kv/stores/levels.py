"""Asymmetric levels of few bits between a least and a largest value, several in a byte.

A byte holds channels i, i + H / n, i + 2 H / n, … as its digits to the base of 2 ** bits, less 128:
int8, and no shifts, since TensorRT has neither unsigned bytes nor shifts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_STEP = 1e-8  # between the levels of values that are all alike


def find_range(rows: Tensor, dim: int, bits: int) -> tuple[Tensor, Tensor]:
    """Least value and step of the levels along `dim`, which stays as 1."""
    least = rows.amin(dim, keepdim=True)
    step = (rows.amax(dim, keepdim=True) - least) / (2**bits - 1)
    return least, step.clamp(min=SMALLEST_STEP)


def to_levels(rows: Tensor, least: Tensor, step: Tensor, bits: int) -> Tensor:
    """float32 [..., H] -> int8 [..., H * bits / 8]; values out of range take the nearest level."""
    import torch

    levels = torch.round((rows - least) / step).clamp(0, 2**bits - 1)
    digits = levels.chunk(8 // bits, dim=-1)
    packed = digits[0]
    for place, digit in enumerate(digits[1:], 1):
        packed = packed + digit * float(2 ** (bits * place))
    return (packed - 128).to(torch.int8)


def from_levels(packed: Tensor, least: Tensor, step: Tensor, bits: int) -> Tensor:
    """The inverse of `to_levels` up to rounding: float32 [..., H]."""
    import torch

    digits: list[Tensor] = []
    rest = packed.to(torch.float32) + 128
    for place in reversed(range(8 // bits)):
        unit = float(2 ** (bits * place))
        digit = torch.floor(rest * (1 / unit))
        rest = rest - digit * unit
        digits.insert(0, digit)
    return torch.cat(digits, dim=-1) * step + least
