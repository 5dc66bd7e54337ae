"""A thumbnail in numbers: brightness and detail of a few cells, which predict complexity."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgetok.errors import UsageError

CELLS = 8  # a side
_DIGITS = 4  # a hundredth of one of 256 levels, and short in a file


def describe(pixels: npt.NDArray[Any], cells: int = CELLS) -> list[float]:
    """Mean and standard deviation of the grey levels of each cell, row by row, means first.

    Costs one pass over the pixels of one image, which is less than resizing them took.

    Args:
        pixels: float [P, 3, h, w] as the tower reads them; of several parts the first one, which
            is the whole image.
        cells: how many a side; pixels beyond a multiple of it are left out.

    Returns:
        [2 cells²] numbers.

    Raises:
        UsageError: if a cell would have no pixel.
    """
    grey = pixels[0].mean(0, dtype=np.float32)
    height, width = (side // cells for side in grey.shape)
    if not (height and width):
        raise UsageError(f"a picture of {grey.shape} pixels has no {cells} x {cells} cells")
    cut = grey[: cells * height, : cells * width].reshape(cells, height, cells, width)
    mean, spread = cut.mean((1, 3)), cut.std((1, 3))
    return [float(x) for x in np.round(np.concatenate([mean, spread]).ravel(), _DIGITS)]
