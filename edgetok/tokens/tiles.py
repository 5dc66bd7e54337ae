"""Pictures cut into tiles: what the thumbnail says about each of them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgetok.tokens.plan import one_hot
from edgetok.tokens.quota import cells
from edgetok.tokens.selectors import mask_of, raster_indices


def sum_by_tile(scores: Tensor, grid: tuple[int, int], tiles: tuple[int, int]) -> Tensor:
    """The thumbnail's scores summed over the region of each tile: [n] -> [tiles] float32.

    Regions are rectangles of the picture; a patch on a border belongs to the one it begins in.
    """
    return (one_hot(cells(grid, tiles), tiles[0] * tiles[1]) * scores.unsqueeze(1)).sum(0)


def tile_numbers(part_tokens: int, tiles: tuple[int, int]) -> Tensor:
    """The tile of each token behind the thumbnail's, a constant: -> [tiles * n] int64."""
    return torch.arange(tiles[0] * tiles[1]).repeat_interleave(part_tokens)


def along_canvas(chosen: Tensor, grid: tuple[int, int], tiles: tuple[int, int]) -> Tensor:
    """Tokens of tiles, numbered tile by tile, in the raster of all tiles together: [K] -> [K]."""
    (rows, columns), (down, across) = grid, tiles
    numbers = torch.arange(down * across * rows * columns)
    canvas = numbers.reshape(down, across, rows, columns).transpose(1, 2).flatten()  # a constant
    there = mask_of(chosen, canvas.shape[0]).index_select(0, canvas)
    return canvas.index_select(0, raster_indices(there, chosen.shape[0]))


def spread_over_tiles(scores: Tensor, grid: tuple[int, int], tiles: tuple[int, int]) -> Tensor:
    """The thumbnail's scores for every patch of every tile: [n] -> [tiles, n] float32.

    Resized bilinearly to the grid of all tiles together, corners not aligned, edges repeated, and
    cut at the tiles.
    """
    (rows, columns), (down, across) = grid, tiles
    tall, wide = _bilinear(rows, down), _bilinear(columns, across)
    canvas = tall @ scores.reshape(rows, columns) @ wide.T  # [down * rows, across * columns]
    cut = canvas.reshape(down, rows, across, columns).transpose(1, 2)
    return cut.reshape(down * across, rows * columns)


def _bilinear(n: int, factor: int) -> Tensor:
    """Weights that resize `n` samples to `factor` times as many, a constant: [factor * n, n]."""
    middle = (np.arange(factor * n) + 0.5) / factor - 0.5
    place: NDArray[np.float64] = np.clip(middle, 0, n - 1)
    weights = np.clip(1 - np.abs(place[:, None] - np.arange(n)), 0, None)
    return torch.from_numpy(weights.astype(np.float32))
