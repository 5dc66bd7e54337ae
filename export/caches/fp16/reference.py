"""What storing rows in float16 makes of them, by NumPy's own conversion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgetok.export.reference.rows import Array, Rounding


@dataclass(frozen=True)
class HalfRounding(Rounding):
    """A prompt attends to itself unrounded; what follows reads float16."""

    def keys(self, layer: int, head: int, rows: Array) -> Array:
        return rows.astype(np.float16).astype(np.float32)

    def values(self, layer: int, head: int, rows: Array) -> Array:
        return self.keys(layer, head, rows)
