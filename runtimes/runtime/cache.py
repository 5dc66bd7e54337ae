"""How many rows the KV cache holds, layer by layer, where the next one goes, and what they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgetok import limits
from edgetok.bundle.manifest import KvCache
from edgetok.errors import InputError
from edgetok.runtimes.runtime.protocol import Key

# What a call takes before its rows, and what a step takes, in rows of a prefill: a row of a chunk
# takes as long as one of a prompt (benchmarks/reuse.py).
CALL_COST, STEP_COST = 24, 10


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
        self._position = self._shift = 0
        self.lengths: NDArray[np.int32] = np.zeros(kv.layers, np.int32)

    def begin(self, rows: int, removed: Sequence[int], shift: int = 0) -> None:
        """A prompt of so many rows has been written, less what each layer had removed.

        `shift` is from the number of the next row to its rotary position.
        A policy's prefill wrote no more than the layer keeps where that is more than it holds.
        """
        true = rows - np.array(removed, np.int32)
        self.lengths = np.where(true > self._slots, self._keep, true).astype(np.int32)
        self._position, self._shift = rows, shift

    def append(self, count: int = 1) -> None:
        """So many rows more in every layer."""
        self.lengths = self.lengths + np.int32(count)
        self._position += count

    @property
    def are_whole(self) -> bool:
        """Whether every layer has every row that was written, each in the slot of its number."""
        return bool((self.lengths == self._position).all())

    def rewind(self, rows: int) -> None:
        """Only the first so many rows count from now on; they must be whole."""
        self.begin(rows, [0] * len(self.lengths))

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
        return self.next_positions(1)

    def next_positions(self, count: int) -> NDArray[np.int64]:
        """Rotary positions [L, count] of the next rows in each layer."""
        kept = np.full(len(self.lengths), self._position + self._shift, np.int64)
        first = self.lengths.astype(np.int64) if self._renumbered else kept
        return first[:, None] + np.arange(count)

    @property
    def left(self) -> int:
        """Rows that can still be appended; compaction makes room for as many as wanted."""
        if not self._ends:
            endless = limits.NEW_TOKENS
            return endless if self._renumbered else self._max_positions - self._position
        slots = int((self._slots - self.lengths).min())
        return min(slots, self._max_positions - int(self.positions.max()))

    def require_left(self, rows: int) -> None:
        """Raises InputError if there is no room for so many rows more."""
        left, held = self.left, int(self.lengths.max())
        if left >= rows:
            return
        if not self._ends:
            raise InputError(
                f"{left} of the model's {self._max_positions} positions are left, and {rows} rows "
                "are to come; ask for fewer new tokens, or export with --kv-policy streaming, "
                "which renumbers its rows"
            )
        state = f"holds {held} rows and has room for {left} of {rows} more"
        raise InputError(
            f"the KV cache {state if left > 0 else f'is full with {held} rows'}; ask for fewer "
            "new tokens, or export with more (--new-tokens)"
        )


class HeldRows:
    """What the rows of a cache are, in the order in which they were written, as far as known."""

    def __init__(self) -> None:
        self._keys: list[Key] = []
        self._known = False

    def begin(self, keys: Sequence[Key]) -> None:
        """A prompt of these rows has been written; of rows that nobody named if there are none."""
        self._keys, self._known = list(keys), bool(keys)

    def append(self, keys: Sequence[Key]) -> None:
        """More rows after those."""
        if self._known:
            self._keys += keys

    def cut(self, rows: int) -> None:
        """What stands after the first so many rows is about to be written over."""
        del self._keys[rows:]

    def forget(self) -> None:
        """Nothing is known any more."""
        self.begin(())

    def count_shared(self, keys: Sequence[Key]) -> int:
        """How many of these rows, from the first on, are held."""
        pairs = enumerate(zip(self._keys, keys, strict=False))
        return next((i for i, (a, b) in pairs if a != b), min(len(self._keys), len(keys)))

    def __len__(self) -> int:
        return len(self._keys)


class Chunks(NamedTuple):
    """How rows are put after those that are held: chunks, widest first, then single steps.

    Args:
        cost: in rows of a prefill.
    """

    cost: float
    widths: tuple[int, ...]
    steps: int


def choose_chunks(
    start: int, stop: int, sizes: Sequence[int], *, overlapping: bool, steps: int
) -> Chunks:
    """The cheapest way to put rows from `start` to `stop` into the cache.

    Args:
        sizes: rows that graphs of chunks take, ascending.
        overlapping: whether the last chunk may write rows again that stand before it.
        steps: how many of the last rows may be put one by one, being text.

    >>> choose_chunks(80, 125, (16, 64), overlapping=True, steps=45).widths
    (64,)
    >>> choose_chunks(80, 125, (16, 64), overlapping=False, steps=45)[1:]
    ((16, 16), 13)
    """
    best = [Chunks(0, (), 0)]
    for rows in range(1, stop - start + 1):
        ways = [Chunks(STEP_COST * rows, (), rows)] if rows <= steps else []
        for width in sizes:
            if width <= rows or (overlapping and width <= stop):
                before = best[max(0, rows - width)]
                cost = before.cost + CALL_COST + width
                ways.append(Chunks(cost, (*before.widths, width), before.steps))
        best.append(min(ways, default=Chunks(math.inf, (), 0)))
    found = best[-1]
    return found._replace(widths=tuple(sorted(found.widths, reverse=True)))


def place_chunks(start: int, stop: int, widths: Sequence[int]) -> list[tuple[int, int]]:
    """Where chunks of these widths begin, and their widths; none goes beyond `stop`.

    >>> place_chunks(80, 125, (64,)), place_chunks(10, 43, (16, 16))
    ([(61, 64)], [(10, 16), (26, 16)])
    """
    places = []
    for width in widths:
        places.append((min(start, stop - width), width))
        start += width
    return places
