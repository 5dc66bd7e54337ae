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

from edgetok.bundle.kivi import KiviShape
from edgetok.export.reference import Reference
from edgetok.families.parts import Parts
from edgetok.methods import Method

Array = npt.NDArray[np.float32]


class GroupCache(DynamicCache):  # type: ignore[misc]  # transformers is not typed
    """Each full group of rows is rounded when a row comes behind it; a prompt sees itself exactly.

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
    """A reference over `GroupCache`."""

    def __init__(self, parts: Parts, method: Method, shape: KiviShape) -> None:
        super().__init__(parts, method)
        self.shape = shape

    def begin_cache(self) -> GroupCache:
        return GroupCache(self.shape.ring, self.shape.bits)

    @torch.no_grad()
    def follow_steps(self, embeds: Tensor, ids: list[int]) -> tuple[Tensor, GroupCache]:
        """Logits [1 + len(ids), W] of a prompt [1, n, D] and of given tokens behind it, one by one.

        The cache is as it was when the last token came.
        """
        text, cache, rows, logits = self.parts.text, self.begin_cache(), embeds, []
        for token in [*ids, None]:
            out = text.model(inputs_embeds=rows, past_key_values=cache, use_cache=True)
            logits.append(text.head(out.last_hidden_state[0, -1]))
            if token is not None:
                rows = text.embed(torch.tensor([[token]]))
        return torch.stack(logits), cache
