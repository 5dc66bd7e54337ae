"""Attention over a prompt that leaves packed rows, in standard operators.

The `portable` form of `edgetok.export.lowering.ort_eviction`: attention is single operators, as
everywhere in this flavour where many rows ask, and rows become bytes with a scale per slot once
they are packed.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from edgetok.export.lowering.ort_eviction import PackingAttention
from edgetok.export.lowering.portable_decoder import attend_prompt, equalise_rows
from edgetok.kv.stores.slots import build_equaliser, quantize_rows


@dataclass
class StandardPacking(PackingAttention):
    """Packs float32 rows."""

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rows [1, S, heads * H], rotated keys and values [G, S, H]."""
        last = self._lengths[layer]
        rows, keys, values = attend_prompt(query, key, value, scaling, last, self.cos, self.sin)
        return rows, keys[0], values[0]


@dataclass
class SlotPacking(StandardPacking):
    """Packs rows into bytes with a scale per slot and head (`edgetok.kv.stores.slots`).

    Both channels of a rotary pair have one equaliser, so that rows are turned after it as before.
    """

    def equalise(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return equalise_rows((self.scales or [])[layer], query, key, value)

    def plain(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        of_keys, of_values = self._equalisers(layer)
        return keys * of_keys, values * of_values

    def even(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        of_keys, of_values = self._equalisers(layer)
        return keys * (1 / of_keys), values * (1 / of_values)

    def _equalisers(self, layer: int) -> tuple[Tensor, Tensor]:
        """Of keys and values, [G, 1, H]."""
        of_keys, of_values = (self.scales or [])[layer]
        return build_equaliser(of_keys)[0], build_equaliser(of_values)[0]

    def hold(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        pairs = [quantize_rows(rows[None], self.bits) for rows in (keys, values)]
        return *(levels for levels, _ in pairs), *(scales for _, scales in pairs)
