"""Hugging Face's cache with rows rounded as a portable cache of few bits rounds them.

Shares no code with `edgetok.kv.stores.slots`: what a graph reads back from its bytes must be what
NumPy makes of the same rows one by one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgetok.export.reference.model import Reference
from edgetok.export.reference.rows import Rounding
from edgetok.families.internals import DynamicCache, StoringCache
from edgetok.families.parts import TextParts

Array = npt.NDArray[np.float32]


class SlotCache(StoringCache):
    """Rows are rounded when they enter; the first prompt attends to itself unrounded.

    Args:
        text: the decoder, some of whose layers may have convolutions, which are not rounded.
        scales: per layer with keys what is measured of their channels and those of values,
            [1, G, 1, H].
        bits: 8 or 4.
    """

    def __init__(self, text: TextParts, scales: list[tuple[Tensor, Tensor]], bits: int) -> None:
        super().__init__(config=text.model.config if text.convolutions else None)
        attending = (n for n in range(len(text.layers)) if n not in text.convolutions)
        self._scales, self._bits = dict(zip(attending, scales, strict=True)), bits

    def store(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [1, G, S, H], each rounded by its channels' scales."""
        of_keys, of_values = self._scales[layer]
        return self._round(keys, of_keys), self._round(values, of_values)

    def _round(self, rows: Tensor, measured: Tensor) -> Tensor:
        given, channels = rows.numpy(), measured.numpy()
        rounded = np.empty_like(given)
        for group in range(given.shape[1]):
            share = np.maximum(channels[0, group, 0] / channels[0, group, 0].max(), 1e-3)
            rounded[0, group] = _round_rows(given[0, group], share, self._bits)
        return torch.from_numpy(rounded)


class SlotRounding(Rounding):
    """What storing rows with a scale each makes of them, in a cache of constant size."""

    def _round(self, rows: Array, scale: Array) -> Array:
        share = np.maximum(scale[0] / scale.max(), 1e-3)
        return _round_rows(rows, share, self.bits)


def _round_rows(rows: Array, share: Array, bits: int) -> Array:
    """Rows [n, H], one by one."""
    return np.stack([_round_row(row, share, bits) for row in rows])


def _round_row(row: Array, share: Array, bits: int) -> Array:
    top = 127 if bits == 8 else 7
    even = row / share
    step = max(float(np.abs(even).max()) / top, 1e-8)
    rounded: Array = (np.rint(even / step) * step * share).astype(np.float32)
    return rounded


class SlotReference(Reference):
    """A reference over `SlotCache`, or over Hugging Face's own cache where there are no scales.

    A policy's cache rounds by itself (`SlotRounding`).
    """

    def __init__(
        self, reference: Reference, scales: list[tuple[Tensor, Tensor]] | None, bits: int
    ) -> None:
        super().__init__(reference.parts, reference.method, reference.cache)
        self._scales, self._bits = scales, bits

    def begin_cache(self) -> SlotCache | None:
        if self._scales is None:
            return None
        return SlotCache(self.parts.text, self._scales, self._bits)

    def store(self, exact: DynamicCache) -> DynamicCache:
        """The rows of a prompt as the next ones find them."""
        held = self.begin_cache()
        if held is None:
            return exact
        for number, layer in enumerate(exact.layers):
            held.update(layer.keys, layer.values, number)
        return held
