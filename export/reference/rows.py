"""The rows of an eager cache, and what storing them in whole numbers makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

Array = npt.NDArray[Any]
UNDECIDED = 1e-4  # scores that differ by less, relatively, may rank either way in float32


@dataclass(frozen=True)
class Rounding:
    """What storing rows in whole numbers makes of them; a prompt attends to itself unrounded.

    Args:
        scales: per layer key and value scales [1, G, 1, H].
        bits: of a number.
    """

    scales: list[tuple[Tensor, Tensor]]
    bits: int

    def keys(self, layer: int, head: int, rows: Array) -> Array:
        return self._round(rows, self.scales[layer][0][0, head].numpy())

    def values(self, layer: int, head: int, rows: Array) -> Array:
        return self._round(rows, self.scales[layer][1][0, head].numpy())

    def _round(self, rows: Array, scale: Array) -> Array:
        most = 2 ** (self.bits - 1)
        levels = np.clip(np.rint(rows / scale), -most, most - 1)
        return np.asarray(levels * scale, np.float32)


@dataclass(frozen=True)
class Row:
    """One row of one head: its rotated key, its value, and what a policy remembers of it."""

    key: Array
    value: Array
    score: float
    seen: float
    text: bool
