"""Hugging Face's cache with rows rounded as a KIVI cache rounds them, group after group.

Shares no code with `edgetok.kv.stores`: ranges and levels are written out in NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import DynamicCache

from edgetok.export.attention import name_cache_argument
from edgetok.export.reference.model import Reference
from edgetok.families.parts import Parts
from edgetok.methods import Method

Array = npt.NDArray[np.float32]


class GroupCache(DynamicCache):  # type: ignore[misc]  # transformers is not typed
    """Each full group of rows is rounded when a row comes after it; a prompt sees itself exactly.

    Args:
        ring: rows of a group.
        bits: of a rounded number.
    """

    def __init__(self, ring: int, bits: int) -> None:
        super().__init__()
        self._ring, self._bits = ring, bits
        self.rounded: dict[int, int] = {}  # rows of each layer that are rounded

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append rows [1, G, n, H]; what the call attends to."""
        if self.rounded.setdefault(layer_idx, 0) or self.get_seq_length(layer_idx):
            self.round_groups(layer_idx, self.get_seq_length(layer_idx))
        keys, values = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        return keys, values

    def round_groups(self, layer: int, rows: int) -> None:
        """Round the full groups of the first so many rows, where that was not done yet."""
        held = self.layers[layer]
        keys, values = held.keys[0].numpy().copy(), held.values[0].numpy().copy()
        done = self.rounded[layer]
        while done + self._ring <= rows:
            group = slice(done, done + self._ring)
            for head in range(len(keys)):
                keys[head, group] = np.stack(
                    [_round(channel, self._bits) for channel in keys[head, group].T], 1
                )
                values[head, group] = [_round(row, self._bits) for row in values[head, group]]
            done += self._ring
        self.rounded[layer] = done
        held.keys, held.values = torch.from_numpy(keys)[None], torch.from_numpy(values)[None]


def _round(numbers: Array, bits: int) -> Array:
    least, most = numbers.min(), numbers.max()
    step = np.maximum((most - least) / np.float32(2**bits - 1), np.float32(1e-8))
    levels = np.rint((numbers - least) / step)
    rounded: Array = np.asarray(levels * step + least, np.float32)
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
