"""Rounding a matrix in blocks of rows: their size, and the scale of each.

The form is that of MatMulNBits and GatherBlockQuantized: symmetric, levels from -8 to 7 of 4 bits
and -128 to 127 of 8, a float32 scale a block.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]
SIZES = (32, 64, 128)  # of blocks
SCALE_BYTES = 4  # a scale has the type of the activations
CLIPPED = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)  # of a block's largest value that a scale still reaches
_CHUNK = 1 << 20  # weights rounded at a time: a candidate's errors stay in the cache


def choose_block(rows: int, bits: int) -> int:
    """The size of blocks in which `rows` take the fewest bytes; of equal ones the smallest.

    The last block is stored whole. So 128 where it divides the rows, a scale of a quarter of a bit
    a weight, but 64 of 576 rows, of which blocks of 128 would store 640.

    >>> [choose_block(rows, 4) for rows in (256, 576, 96)]
    [128, 64, 32]
    """

    def stored(size: int) -> int:
        return -(-rows // size) * (size * bits // 8 + SCALE_BYTES)

    return min(SIZES, key=stored)


def round_blocks(weight: Matrix, bits: int) -> tuple[npt.NDArray[np.uint8], Matrix]:
    """weight [K, N] -> packed [N, blocks, bytes] uint8 and scales [N, blocks] float32.

    Of a block's candidate scales that of the least squared error is taken: the one that reaches its
    largest value, on the level -8, or on 7; smaller ones, which clip a few weights and round the
    many others finer; and those that give back a matrix which lies on levels already.
    """
    rows, columns = weight.shape
    size = choose_block(rows, bits)
    blocks, half = -(-rows // size), 1 << (bits - 1)
    levels = np.empty((columns, blocks * size), np.int8)
    scales = np.empty((columns, blocks), np.float32)
    step = max(1, _CHUNK // (blocks * size))
    for first in range(0, columns, step):
        part = np.zeros((len(range(columns)[first : first + step]), blocks * size), np.float32)
        part[:, :rows] = weight.T[first : first + step]
        grouped = part.reshape(-1, blocks, size)
        found = choose_scales(grouped, half)
        made = _round(grouped, found, half).reshape(len(part), -1)
        levels[first : first + step], scales[first : first + step] = made, found[..., 0]
    packed = (levels.astype(np.int16) + half).astype(np.uint8).reshape(columns, blocks, size)
    if bits == 4:
        packed = np.bitwise_or(packed[..., ::2], packed[..., 1::2] << 4)
    return packed, scales


def choose_scales(grouped: Matrix, half: int, by: Matrix | None = None) -> Matrix:
    """Scales [N, blocks, 1] for values [N, blocks, size].

    `by` [blocks, size] weighs the errors.
    """
    place = np.abs(grouped).argmax(-1)[..., None]
    largest = np.take_along_axis(grouped, place, -1)
    best, least = np.ones_like(largest), np.full_like(largest, np.inf)
    for factor in _list_factors(half):
        scale = np.where(largest == 0, np.float32(1), largest * np.float32(factor))
        error = np.square(_round(grouped, scale, half) * scale - grouped)
        error = (error if by is None else error * by).sum(-1, keepdims=True)
        better = error < least
        best, least = np.where(better, scale, best), np.minimum(error, least)
    return best


def _list_factors(half: int) -> Iterator[float]:
    yield from (-share / half for share in CLIPPED)
    yield from (share / (half - 1) for share in CLIPPED)
    if half == 8:
        yield from (1 / level for level in range(1, half - 1))


def _round(grouped: Matrix, scales: Matrix, half: int) -> Matrix:
    levels: Matrix = np.clip(np.rint(grouped / scales), -half, half - 1)
    return levels
