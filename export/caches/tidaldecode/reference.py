"""TidalDecode in eager PyTorch: a list of rows per layer and head, of which a step reads a part.

Shares no code with `edgetok.kv.stores.tidaldecode`: rows that a head does not read are hidden from
Hugging Face's own layers one by one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from edgetok.export.reference.cache import CacheReference
from edgetok.export.reference.rows import UNDECIDED, Array
from edgetok.families.parts import TextParts
from edgetok.kv import Reads, keep_all


class TidalReference(CacheReference):
    """Keeps every row, and says which ones each step read.

    Attributes:
        read: of the last step, the rows that each head chose in each layer that chooses.
    """

    def __init__(self, text: TextParts, reads: Reads, slots: int) -> None:
        super().__init__(text, keep_all(slots, len(text.layers)))
        self.reads = reads
        self.read: dict[int, dict[int, list[int]]] = {}
        self._found: Callable[[int], Array] | None = None

    @torch.no_grad()
    def step(self, token_id: int, found: Callable[[int], Array] | None = None) -> Tensor:
        """One token more -> logits [W].

        `found` shows what a graph read in this step, [G, k] by the number of the choice: where
        that can be told from the own choice by rounding alone, it is followed.
        """
        self.read, self._found = {}, found
        logits = super().step(token_id)
        self._found = None
        return logits

    @torch.no_grad()
    def put(self, embeds: Tensor) -> Tensor:
        """A chunk [1, R, D] more, which reads all rows -> logits [W] of its last one."""
        self.read = {}
        places = range(self._position, self._position + embeds.shape[1])
        self._position = places.stop
        return self._run(embeds, [places] * len(self.rows))

    def _unread(self, layer: int, head: int, new: int, count: int) -> Tensor:
        hidden = super()._unread(layer, head, new, count)
        before = [at for at in self.reads.selects if at < layer]
        if new > 1 or not before or layer in self.reads.selects:
            return hidden
        for row in range(count):
            if row not in self.read[before[-1]][head]:
                hidden[0, row] = True
        return hidden

    def _notice(self, layer: int, head: int, received: Array) -> None:
        if len(received) > 1 or layer not in self.reads.selects:
            return
        paid = received[0].tolist()
        order = sorted(range(len(paid)), key=lambda row: (-paid[row], row))
        chosen = order[: self.reads.count]
        if self._found is not None:
            number = self.reads.selects.index(layer)
            chosen = self._followed(paid, chosen, self._found(number)[head].tolist())
        self.read.setdefault(layer, {})[head] = chosen

    def _followed(self, paid: list[float], own: list[int], found: list[int]) -> list[int]:
        theirs = [row for row in found if row >= 0]
        if len(theirs) != len(own) or not set(theirs) <= set(range(len(paid))):
            self.agreement.append(0.0)
            return own
        edge = min((paid[row] for row in own), default=0.0)
        others = set(own) ^ set(theirs)
        decided = [row for row in others if abs(paid[row] - edge) > UNDECIDED * max(edge, 1e-6)]
        self.agreement.append(1 - len(decided) / (2 * max(len(own), 1)))
        return theirs
