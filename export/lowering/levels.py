"""Rounding of matrices to whole numbers with a scale per column, or per block of a column."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BLOCK = 32  # rows that share a scale at 4 bits; at 8 bits a column does, which is what engines take


def round_levels(
    weight: npt.NDArray[np.float32], bits: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """weight [K, N] -> levels [K, N] int8 and scales [1, N] at 8 bits, [K / 32, N] at 4.

    Symmetric, from -127 to 127 or -7 to 7.
    """
    rows, columns = weight.shape
    height = BLOCK if bits == 4 else rows
    blocks = -(-rows // height)
    padded = np.zeros((blocks * height, columns), np.float32)
    padded[:rows] = weight
    grouped = padded.reshape(blocks, height, columns)
    largest = np.abs(grouped).max(1)
    scales = np.where(largest > 0, largest / (2 ** (bits - 1) - 1), 1).astype(np.float32)
    levels = np.rint(grouped / scales[:, None]).astype(np.int8)
    return levels.reshape(-1, columns)[:rows], scales


def round_matrix(weight: npt.NDArray[np.float32], bits: int) -> npt.NDArray[np.float32]:
    """What the levels of `weight` [K, N] stand for: [K, N] float32."""
    levels, scales = round_levels(weight, bits)
    height = BLOCK if bits == 4 else weight.shape[0]
    return levels.astype(np.float32) * np.repeat(scales, height, axis=0)[: weight.shape[0]]
