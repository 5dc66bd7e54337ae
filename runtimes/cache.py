"""How many rows the KV cache holds, layer by layer, and where the next one goes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgetok import limits
from edgetok.bundle.manifest import KvCache


class CacheRows:
    """The state of one KV cache: all that a step must know beside the token.

    Layers may hold different numbers of rows, where prefill or a policy took some away.

    Args:
        kv: slots of each layer, how positions go on, and the rows that stay when one is full.
        max_positions: rotary positions that the model knows.
    """

    def __init__(self, kv: KvCache, max_positions: int) -> None:
        self._slots = np.array(kv.slots, np.int32)
        self._keep = np.array(kv.keep or kv.slots, np.int32)
        self._ends = not kv.keep
        self._renumbered = kv.positions == "renumbered"
        self._max_positions = max_positions
        self._position = 0
        self.lengths: NDArray[np.int32] = np.zeros(kv.layers, np.int32)

    def begin(self, rows: int, removed: Sequence[int]) -> None:
        """A prompt of so many rows has been written, less what each layer had removed.

        A policy's prefill wrote no more than the layer keeps where that is more than it holds.
        """
        true = rows - np.array(removed, np.int32)
        self.lengths = np.where(true > self._slots, self._keep, true).astype(np.int32)
        self._position = rows

    def append(self) -> None:
        """One row more in every layer."""
        self.lengths = self.lengths + 1
        self._position += 1

    @property
    def full(self) -> list[int]:
        """Layers without room for another row."""
        return [int(layer) for layer in np.flatnonzero(self.lengths >= self._slots)]

    def compact(self, layer: int) -> None:
        """A layer has been emptied of all rows but those that stay."""
        self.lengths[layer] = self._keep[layer]

    @property
    def positions(self) -> NDArray[np.int64]:
        """Rotary position [L, 1] of the next row in each layer."""
        kept = np.full(len(self.lengths), self._position, np.int64)
        return (self.lengths.astype(np.int64) if self._renumbered else kept)[:, None]

    @property
    def left(self) -> int:
        """Rows that can still be appended; compaction makes room for as many as wanted."""
        if not self._ends:
            endless = limits.NEW_TOKENS
            return endless if self._renumbered else self._max_positions - self._position
        slots = int((self._slots - self.lengths).min())
        return min(slots, self._max_positions - int(self.positions.max()))
