"""A ZipCache in eager PyTorch: Hugging Face's own cache, with rows rounded one by one.

Shares no code with `edgetok.kv`: saliences, ranges and levels are written out in NumPy. Rows stay
in their order, as attention does not depend on it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgetok.export.reference.model import Answer, Reference
from edgetok.families.internals import DynamicCache, name_cache_argument
from edgetok.families.parts import Parts
from edgetok.methods import Method

Array = npt.NDArray[Any]


class ZipReference(Reference):
    """A reference whose rows are in two tiers, the last ones, at most `ring`, as they are."""

    def __init__(self, parts: Parts, method: Method, ring: int) -> None:
        super().__init__(parts, method)
        self.ring = ring

    def begin_rows(self) -> ZipRows:
        """The rows of an answer that is not begun."""
        return ZipRows(self)

    def answer(
        self,
        embeds: Tensor,
        new_tokens: int,
        visual: range = range(0),
        prompt_rows: int | None = None,
        made: dict[str, Tensor] | None = None,
    ) -> Answer:
        """Greedy decoding until a stop token."""
        rows = self.begin_rows()
        logits = [rows.begin(embeds)]
        ids = [int(logits[-1].argmax())]
        while len(ids) < new_tokens and ids[-1] not in self.parts.text.stop_ids:
            logits.append(rows.step(ids[-1]))
            ids.append(int(logits[-1].argmax()))
        return Answer(torch.stack(logits), ids)

    def follow_steps(self, embeds: Tensor, ids: list[int]) -> Tensor:
        """Logits [1 + len(ids), W] of a prompt [1, n, D] and of given tokens after it."""
        rows = self.begin_rows()
        return torch.stack([rows.begin(embeds), *(rows.step(token) for token in ids)])


class ZipRows:
    """The rows of one answer."""

    def __init__(self, reference: ZipReference) -> None:
        self.text, self._ring = reference.parts.text, reference.ring
        self._cache: Any = DynamicCache()
        self._packed = 0
        self._scores: list[Array] = []  # per layer what waiting rows received, [G, waiting]
        self._ranges: dict[tuple[int, int, int], tuple[Array, Array]] = {}
        self._divisors: dict[tuple[int, int], Array] = {}

    def begin(self, embeds: Tensor) -> Tensor:
        """A prompt [1, n, D] -> logits [W]."""
        logits, maps = self._run(embeds)
        count = embeds.shape[1]
        for layer, attention in enumerate(maps):
            self._pack(layer, slice(0, count), _probed(attention), first=True)
        self._packed = count
        self._scores = [np.zeros((a.shape[0], 0)) for a in maps]
        return logits

    def step(self, token: int) -> Tensor:
        """One token more -> logits [W]."""
        if self.is_full:
            for layer, scores in enumerate(self._scores):
                salience = scores / np.arange(self._ring, 0, -1)
                self._pack(layer, slice(self._packed, self._packed + self._ring), salience)
            self._packed += self._ring
            self._scores = [scores[:, :0] for scores in self._scores]
        logits, maps = self._run(self.text.embed(torch.tensor([[token]])))
        for layer, attention in enumerate(maps):
            before = np.pad(self._scores[layer], ((0, 0), (0, 1)))
            self._scores[layer] = before + attention[:, 0, self._packed :]
        return logits

    @property
    def is_full(self) -> bool:
        """Whether the next row has the ring packed."""
        return bool(self._scores[0].shape[1] == self._ring)

    def waiting(self, layer: int) -> dict[str, Array]:
        """The rows of a full ring [G, ring, H] and their scores [G, ring], by part."""
        held = self._cache.layers[layer]
        return {
            "key": held.keys[0, :, self._packed :].numpy(),
            "value": held.values[0, :, self._packed :].numpy(),
            "score": self._scores[layer],
        }

    def take_over(self, layer: int, waiting: dict[str, Array]) -> None:
        """Go on with these for a full ring's own."""
        for kind, rows in self.waiting(layer).items():
            rows[:] = waiting[kind]

    @torch.no_grad()
    def _run(self, rows: Tensor) -> tuple[Tensor, list[Array]]:
        """Logits [W], and per layer attention [G, rows, all rows], the mean over a group."""
        text = self.text
        told: dict[str, Any] = {name_cache_argument(text.model): self._cache, "use_cache": True}
        out = text.model(inputs_embeds=rows, output_attentions=True, **told)
        maps = [a[0].double().numpy() for a in out.attentions]
        means = [a.reshape(text.kv_heads, -1, *a.shape[1:]).mean(1) for a in maps]
        return text.head(out.last_hidden_state[0, -1]), means

    def _pack(self, layer: int, rows: slice, salience: Array, first: bool = False) -> None:
        held = self._cache.layers[layer]
        keys, values = held.keys[0].numpy().copy(), held.values[0].numpy().copy()
        for head, scores in enumerate(salience):
            if first:
                self._divisors[layer, head] = _divisor(values[head, rows])
            divisor = self._divisors[layer, head]
            order = np.argsort(-scores, kind="stable")
            high = len(order) - int(0.4 * len(order))
            for bits, chosen in ((4, order[:high]), (2, order[high:])):
                at, key = rows.start + chosen, (layer, head, bits)
                if first:
                    own = keys[head, at if len(at) else rows]
                    self._ranges[key] = own.min(0), own.max(0)
                least, most = self._ranges[key]
                keys[head, at] = _round(keys[head, at], least, most, bits)
                even = values[head, at] / divisor
                bounds = even.min(1, keepdims=True), even.max(1, keepdims=True)
                values[head, at] = _round(even, *bounds, bits) * divisor
        held.keys, held.values = torch.from_numpy(keys)[None], torch.from_numpy(values)[None]


def _probed(attention: Array) -> Array:
    """Mean attention [G, n] from the probes that could see each row, of a prompt's [G, n, n]."""
    count = attention.shape[1]
    last = -(-count // 20)
    probes = [q for q in range(count) if q >= count - last or q % 20 == 0]
    total = attention[:, probes].sum(1)
    seen = np.array([sum(q >= row for q in probes) for row in range(count)])
    salience: Array = total / np.maximum(seen, 1)
    return salience


def _divisor(values: Array) -> Array:
    root: Array = np.maximum(np.sqrt(np.abs(values).max(0)), np.float32(1e-4))
    return root


def _round(rows: Array, least: Array, most: Array, bits: int) -> Array:
    top = np.float32(2**bits - 1)
    step = np.maximum((most - least) / top, np.float32(1e-8))
    levels = np.clip(np.rint((rows - least) / step), 0, top)
    return np.asarray(levels * step + least, np.float32)
