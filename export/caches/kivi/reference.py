"""Hugging Face's cache with rows rounded as a KIVI cache rounds them.

Shares no code with `edgetok.kv.stores`: ranges and levels are written out in NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgetok.export.reference.model import Reference
from edgetok.families.internals import DynamicCache, name_cache_argument
from edgetok.families.parts import Parts
from edgetok.methods import Method

Array = npt.NDArray[np.float32]


class GroupCache(DynamicCache):  # type: ignore[misc]  # transformers is not typed
    """Rows are rounded when others come after them; a prompt sees itself exactly.

    Keys are rounded group by group, each of which is full before the next row comes. Values are
    rounded one by one, as soon as `ring` others came after them.

    Args:
        ring: rows of a group.
        bits: of a rounded number.
    """

    def __init__(self, ring: int, bits: int) -> None:
        super().__init__()
        self._ring, self._bits = ring, bits
        self.rounded: dict[str, dict[int, int]] = {"key": {}, "value": {}}  # rows, by layer

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append rows [1, G, n, H]; what the call attends to."""
        held = self.get_seq_length(layer_idx)
        if held:
            self._round_keys(layer_idx, held // self._ring * self._ring)
            self.round_values(layer_idx, held - self._ring)
        keys, values = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        return keys, values

    def _round_keys(self, layer: int, rows: int) -> None:
        """Each channel over every full group of the first rows, if that was not done yet."""
        done, held = self.rounded["key"].get(layer, 0), self.layers[layer]
        keys = held.keys[0].numpy().copy()
        for start in range(done, rows, self._ring):
            group = slice(start, start + self._ring)
            keys[:, group] = _round(keys[:, group], self._bits, 1)
        self.rounded["key"][layer], held.keys = rows, torch.from_numpy(keys)[None]

    def round_values(self, layer: int, rows: int) -> None:
        """Each of the first rows, if that was not done yet, a few channels at a time."""
        done, held = self.rounded["value"].get(layer, 0), self.layers[layer]
        values = held.values[0].numpy().copy()
        rows = max(done, rows)
        leaving = values[:, done:rows]
        width = max(n for n in range(1, 33) if not leaving.shape[2] % n and not n * self._bits % 8)
        ranges = leaving.reshape(len(leaving), rows - done, leaving.shape[2] // width, width)
        leaving[:] = _round(ranges, self._bits, 3).reshape(leaving.shape)
        self.rounded["value"][layer], held.values = rows, torch.from_numpy(values)[None]


def _round(numbers: Array, bits: int, axis: int) -> Array:
    """Numbers to the nearest of 2 ** bits levels between the least and the largest of an axis."""
    least, most = numbers.min(axis, keepdims=True), numbers.max(axis, keepdims=True)
    step = np.maximum((most - least) / np.float32(2**bits - 1), np.float32(1e-8))
    rounded: Array = np.asarray(np.rint((numbers - least) / step) * step + least, np.float32)
    return rounded


class KiviReference(Reference):
    """A reference over `GroupCache`, whose arguments these are."""

    def __init__(self, parts: Parts, method: Method, ring: int, bits: int) -> None:
        super().__init__(parts, method)
        self.ring, self.bits = ring, bits

    def begin_cache(self) -> GroupCache:
        return GroupCache(self.ring, self.bits)

    def begin_rows(self) -> KiviRows:
        """The rows of an answer that is not begun."""
        return KiviRows(self)

    def follow_steps(self, embeds: Tensor, ids: list[int]) -> Tensor:
        """Logits [1 + len(ids), W] of a prompt [1, n, D] and of given tokens after it."""
        rows = self.begin_rows()
        return torch.stack([rows.begin(embeds), *(rows.step(token) for token in ids)])


class KiviRows:
    """The rows of one answer."""

    def __init__(self, reference: KiviReference) -> None:
        self.text, self.cache = reference.parts.text, reference.begin_cache()
        self._ring = reference.ring

    @torch.no_grad()
    def begin(self, embeds: Tensor) -> Tensor:
        """Rows [1, n, D] -> logits [W] of the last one."""
        model = self.text.model
        told = {name_cache_argument(model): self.cache}
        out = model(inputs_embeds=embeds, use_cache=True, **told)
        logits: Tensor = self.text.head(out.last_hidden_state[0, -1])
        return logits

    def step(self, token: int) -> Tensor:
        """One token more -> logits [W]."""
        return self.begin(self.text.embed(torch.tensor([[token]])))

    @property
    def is_full(self) -> bool:
        """Whether the next row has a whole group rounded."""
        return bool(self.cache.get_seq_length() % self._ring == 0)

    def waiting(self, layer: int) -> dict[str, Array]:
        """The rows of a full ring, by the part of it that they are: [G, ring, H] each."""
        held = self.cache.layers[layer]
        return {
            "key": held.keys[0, :, -self._ring :].numpy(),
            "value": held.values[0, :, -self._ring :].numpy(),
        }

    def take_over(self, layer: int, waiting: dict[str, Array]) -> None:
        """Go on with these rows for a full ring's own."""
        for kind, rows in self.waiting(layer).items():
            rows[:] = waiting[kind]
