"""ThinK in eager PyTorch: a list of rows per layer and head, whose keys lose channels as they age.

Shares no code with `edgetok.kv.stores.think`: keys stay whole in the list, and channels that are
pruned are read as zeros, one row and channel at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from edgetok.export.reference.cache import CacheReference
from edgetok.export.reference.rows import UNDECIDED, Array, Row
from edgetok.families.parts import TextParts
from edgetok.kv import keep_all

ASKED = 32  # last queries of a prompt


class ThinkReference(CacheReference):
    """Keeps every row, and reads the older keys in some of their channels.

    Args:
        slots: rows that a layer can hold.
        ring: last keys that are whole.
        kept: channels that the others keep.

    Attributes:
        channels: what the prompt chose, by layer and head.
    """

    def __init__(self, text: TextParts, slots: int, ring: int, kept: int) -> None:
        super().__init__(text, keep_all(slots, len(text.layers)))
        self.slots, self.ring, self.kept = slots, ring, kept
        self.channels: dict[tuple[int, int], list[int]] = {}
        self._importance: dict[tuple[int, int], list[float]] = {}

    @torch.no_grad()
    def begin(
        self, embeds: Tensor, visual: range, found: Callable[[int], Array] | None = None
    ) -> Tensor:
        """A prompt [1, n, D] -> logits [W].

        `found` shows the channels [G, keep] that a graph chose in a layer: where they can be told
        from the own ones by rounding alone, they are followed.
        """
        self.channels, self._importance = {}, {}
        logits = super().begin(embeds, visual)
        if found is not None:
            for (layer, head), own in self.channels.items():
                theirs = found(layer)[head].tolist()
                self.channels[layer, head] = self._followed((layer, head), own, theirs)
        return logits

    def _read(self, layer: int, head: int, query: Tensor, rows: Sequence[Row]) -> Array:
        keys = super()._read(layer, head, query, rows)
        if (layer, head) not in self.channels:
            self._choose_channels(layer, head, query, keys)
            return keys
        kept = set(self.channels[layer, head])
        for row in range(len(keys) - self.ring):
            for channel in range(keys.shape[1]):
                if channel not in kept:
                    keys[row, channel] = 0.0
        return keys

    def _choose_channels(self, layer: int, head: int, query: Tensor, keys: Array) -> None:
        asking = query[:, -ASKED:].double().numpy()
        squares = (asking**2).mean((0, 1)) * (keys.astype(np.float64) ** 2).mean(0)
        ranks = squares.tolist()
        order = sorted(range(len(ranks)), key=lambda channel: (-ranks[channel], channel))
        self.channels[layer, head] = sorted(order[: self.kept])
        self._importance[layer, head] = ranks

    def _followed(self, where: tuple[int, int], own: list[int], theirs: list[int]) -> list[int]:
        ranks = self._importance[where]
        if len(set(theirs)) != len(own) or not set(theirs) <= set(range(len(ranks))):
            self.agreement.append(0.0)
            return own
        edge = min(ranks[channel] for channel in own)
        others = set(own) ^ set(theirs)
        decided = [c for c in others if abs(ranks[c] - edge) > UNDECIDED * max(edge, 1e-6)]
        self.agreement.append(1 - len(decided) / (2 * len(own)))
        return theirs
