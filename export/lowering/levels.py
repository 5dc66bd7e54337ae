"""Rounding of matrices to whole numbers with a scale per column, or per block of a column."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgetok.export.lowering.blocks import choose_block, round_blocks


def round_levels(
    weight: npt.NDArray[np.float32], bits: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """weight [K, N] -> levels [K, N] int8 and scales [1, N] at 8 bits, [blocks, N] at 4.

    At 8 bits a column shares a scale, which is what engines take; levels are -127 to 127. Those of
    4 bits are -8 to 7, in the blocks of MatMulNBits.
    """
    if bits == 4:
        packed, scales = round_blocks(weight, bits)
        levels = np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)
        return levels.T[: len(weight)].astype(np.int8) - np.int8(8), np.ascontiguousarray(scales.T)
    largest = np.abs(weight).max(0, keepdims=True)
    scales = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(weight / scales).astype(np.int8), scales


def round_matrix(weight: npt.NDArray[np.float32], bits: int) -> npt.NDArray[np.float32]:
    """What the levels of `weight` [K, N] stand for: [K, N] float32."""
    levels, scales = round_levels(weight, bits)
    height = choose_block(len(weight), bits) if bits == 4 else len(weight)
    return levels.astype(np.float32) * np.repeat(scales, height, axis=0)[: len(weight)]
