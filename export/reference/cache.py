"""A cache of constant size in eager PyTorch: a list of rows per layer and head, one step at a time.

Nothing here shares code with what is traced. Hugging Face's own layers make and rotate queries,
keys and values; attention, scores and choices are written out over rows. Scores and angles are
float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgetok.export.reference.mixing import mix
from edgetok.export.reference.rows import UNDECIDED, Rounding, Row
from edgetok.families.internals import Attend, register_attention, using_attention
from edgetok.families.parts import TextParts
from edgetok.kv import EvictionPlan, Policy
from edgetok.kv.policy import SCORE, SEEN, TEXT

Array = npt.NDArray[Any]
Found = Callable[[int], Array]  # from a layer to the marks [G, keep, …] that a graph left there
NAME = "edgetok-rows"


class CacheReference:
    """Holds what a policy keeps.

    Args:
        draws: numbers [L, G, n] of a policy that draws.

    Attributes:
        rounding: how rows are stored, if not as they are.
        agreement: of each choice that was compared with a graph's, by how many rows it is the
            same; 1 too where the others are as good as equal.
    """

    def __init__(self, text: TextParts, plan: EvictionPlan, draws: Tensor | None = None) -> None:
        self.text, self.plan, self.policy = text, plan, plan.policy
        self.draws = None if draws is None else draws.numpy()
        self.rows: list[list[list[Row]]] = []
        self.rounding: Rounding | None = None
        self.agreement: list[float] = []
        self._position = 0
        self._visual = range(0)

    @torch.no_grad()
    def begin(self, embeds: Tensor, visual: range, found: Found | None = None) -> Tensor:
        """A prompt [1, n, D] whose rows in `visual` are visual -> logits [W] of its last row."""
        self.rows = [[[] for _ in range(self.text.kv_heads)] for _ in self.text.layers]
        self._visual, self._position = visual, embeds.shape[1]
        logits = self._run(embeds, [range(embeds.shape[1])] * len(self.rows))
        for layer, slots in enumerate(self.plan.slots):
            if embeds.shape[1] > slots:
                self._empty(layer, found)
            if self.rounding is not None:
                self._store(layer)
        return logits

    @torch.no_grad()
    def step(self, token_id: int, found: Found | None = None) -> Tensor:
        """One token more -> logits [W]. `found` shows what a graph kept of the layers now full."""
        for layer in self.full:
            self._empty(layer, found)
            if self.rounding is not None:
                self._store(layer)
        held = [len(heads[0]) for heads in self.rows]
        renumbered = self.policy.positions == "renumbered"
        places = [range(n, n + 1) if renumbered else self._next for n in held]
        self._position += 1
        return self._run(self.text.embed(torch.tensor([[token_id]])), places)

    @property
    def full(self) -> list[int]:
        """Layers whose next row needs others to go."""
        return [i for i, n in enumerate(self.plan.slots) if len(self.rows[i][0]) >= n]

    def keys(self, layer: int) -> Array:
        """[G, rows, H]."""
        return np.stack([[row.key for row in rows] for rows in self.rows[layer]])

    @property
    def _next(self) -> range:
        return range(self._position, self._position + 1)

    def _run(self, rows: Tensor, places: Sequence[range]) -> Tensor:
        for layer, block in enumerate(self.text.layers):
            rotations = self.text.rotary(rows, position_ids=torch.tensor([list(places[layer])]))
            register_attention(NAME, self._attend(layer))
            with using_attention(self.text.model.config, NAME):
                rows = block(rows, attention_mask=None, position_embeddings=rotations)
        logits: Tensor = self.text.head(self.text.norm(rows[0, -1]))
        return logits

    def _attend(self, layer: int) -> Attend:
        """Attention of one layer over its rows."""

        def attend(
            module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float
        ) -> Tensor:
            group = query.shape[1] // key.shape[1]
            out = [
                self._attend_group(layer, head, query[0, head * group : (head + 1) * group],
                                   key[0, head].numpy(), value[0, head].numpy(), scaling)
                for head in range(key.shape[1])
            ]  # fmt: skip
            return torch.cat(out).transpose(0, 1)[None]

        return attend

    def _attend_group(
        self, layer: int, head: int, query: Tensor, key: Array, value: Array, scaling: float
    ) -> Tensor:
        """The query heads [heads, n, H] of one key-value head, after its new rows [n, H] came."""
        rows, new = self.rows[layer][head], len(key)
        first = not rows
        if self.rounding is not None and not first:
            key, value = self._rounded(layer, head, key, value)
        rows += [self._born(layer, head, place, key, value) for place in range(new)]
        keys = torch.from_numpy(self._read(layer, head, query, rows))
        values = torch.from_numpy(np.stack([row.value for row in rows]))
        logits = query @ keys.T * scaling  # [heads, n, rows]
        unread = self._unread(layer, head, new, len(rows))
        attention = logits.masked_fill(unread, -torch.inf).softmax(-1)
        received = attention.double().mean(0).numpy()
        self._notice(layer, head, received)
        self.rows[layer][head] = (
            _voted(self.policy, rows, received)
            if first
            else [self._asked(row, p) for row, p in zip(rows, received[0], strict=True)]
        )
        return attention @ values

    def _read(self, layer: int, head: int, query: Tensor, rows: Sequence[Row]) -> Array:
        """Keys [rows, H] as queries [heads, n, H] of a group read them."""
        return np.stack([row.key for row in rows])

    def _unread(self, layer: int, head: int, new: int, count: int) -> Tensor:
        """Which of all rows the new ones, the last, do not attend to: bool [new, count]."""
        return torch.ones(new, count).triu(count - new + 1).bool()

    def _notice(self, layer: int, head: int, received: Array) -> None:
        """What the rows of a head received of its new ones, [new, rows]."""

    def _rounded(self, layer: int, head: int, key: Array, value: Array) -> tuple[Array, Array]:
        if self.rounding is None:
            return key, value
        return self.rounding.keys(layer, head, key), self.rounding.values(layer, head, value)

    def _store(self, layer: int) -> None:
        """Round all rows of a layer."""
        for head, rows in enumerate(self.rows[layer]):
            pairs = [self._rounded(layer, head, row.key[None], row.value[None]) for row in rows]
            self.rows[layer][head] = [
                replace(row, key=key[0], value=value[0])
                for row, (key, value) in zip(rows, pairs, strict=True)
            ]

    def _born(self, layer: int, head: int, place: int, keys: Array, values: Array) -> Row:
        prompt = not self.rows[layer][head]
        at = place if prompt else self._position - 1
        numbers = None if self.draws is None else self.draws[layer, head]
        score = 0.0 if numbers is None else float(numbers[at % len(numbers)])
        text = not prompt or place not in self._visual
        return Row(keys[place], values[place], score, 0.0, text)

    def _asked(self, row: Row, attention: float) -> Row:
        """A row after one decode step."""
        if self.policy.decay is None:
            return row
        return replace(row, score=self.policy.decay * row.score + attention, seen=row.seen + 1)

    def _empty(self, layer: int, found: Found | None) -> None:
        for head, rows in enumerate(self.rows[layer]):
            chosen = self._choose(layer, rows)
            if found is not None and SCORE in self.policy.row_state:
                chosen = self._compared(layer, rows, chosen, found(layer)[head])
            kept = [rows[at] for at in chosen]
            if self.policy.mixers:
                kept = mix(self.policy.mixers[layer], rows, self._ranks(layer, rows), chosen)
            if self.policy.positions == "renumbered":
                kept = [
                    replace(row, key=self._rotated(row.key, place - at))
                    for place, (at, row) in enumerate(zip(chosen, kept, strict=True))
                ]
            self.rows[layer][head] = kept

    def _choose(self, layer: int, rows: Sequence[Row]) -> list[int]:
        """Places of the rows that stay."""
        ranks, keep = self._ranks(layer, rows), self.plan.keep[layer]
        order = sorted(range(len(rows)), key=lambda at: (-ranks[at], at))
        return sorted(order[:keep])

    def _ranks(self, layer: int, rows: Sequence[Row]) -> list[float]:
        policy, keep = self.policy, self.plan.keep[layer]
        recent = keep - policy.sinks if policy.recent is None else policy.recent
        if isinstance(recent, Fraction):
            recent = int(keep * recent)
        ranks = []
        for at, row in enumerate(rows):
            score = row.score / max(row.seen, 1.0) if SEEN in policy.row_state else row.score
            if TEXT in policy.row_state and row.text:
                score = 1e6 + at
            if at < policy.sinks or at >= len(rows) - recent:
                score = float("inf")
            ranks.append(score if SCORE in policy.row_state else min(score, float("inf")))
        return ranks

    def _compared(self, layer: int, rows: Sequence[Row], own: list[int], found: Array) -> list[int]:
        """What a graph chose, if it can be told from the own choice by rounding alone."""
        ranks = self._ranks(layer, rows)
        certain = [at for at in own if ranks[at] == float("inf")]
        open_ = [at for at in range(len(rows)) if at not in certain]
        marks = np.stack([self._mark(rows[at]) for at in open_])
        theirs = list(certain)
        for mark in found[self.policy.sinks :][: len(own) - len(certain)]:
            distance = ((marks - mark) ** 2).sum(1)
            distance[[open_.index(at) for at in theirs if at in open_]] = np.inf
            theirs.append(open_[int(distance.argmin())])
        edge = min(ranks[at] for at in own)
        others = set(own) ^ set(theirs)
        decided = [at for at in others if abs(ranks[at] - edge) > UNDECIDED * max(edge, 1e-6)]
        self.agreement.append(1 - len(decided) / (2 * len(own)))
        return sorted(theirs)

    def _mark(self, row: Row) -> Array:
        """What tells a row from others in a graph's cache: its key, or its score if keys mix."""
        return np.array([row.score]) if self.policy.mixers else row.key

    def _rotated(self, key: Array, by: int) -> Array:
        """A key, seen as complex numbers, so many positions on."""
        frequencies: Any = self.text.rotary.inv_freq
        half, angle = len(key) // 2, frequencies.double().numpy()
        rotated = (key[:half] + 1j * key[half:]) * np.exp(1j * angle * by)
        return np.concatenate([rotated.real, rotated.imag]).astype(np.float32)


def _voted(policy: Policy, rows: Sequence[Row], attention: Array) -> list[Row]:
    """Rows of a prompt with their first scores, from all of its attention [n, n]."""
    if policy.asks is None:
        return list(rows)
    weights = _query_weights(policy, len(rows))
    scores = [float((weights[at:] * attention[at:, at]).sum()) for at in range(len(rows))]
    seen = [float(weights[at:].sum()) for at in range(len(rows))]
    if policy.pool:
        scores = _pooled(scores, policy.window, policy.pool)
    return [replace(r, score=a, seen=b) for r, a, b in zip(rows, scores, seen, strict=True)]


def _query_weights(policy: Policy, count: int) -> Array:
    """What the attention of each query of the prompt counts, [count]."""
    ages = np.arange(count)[::-1]
    if policy.pool:
        return (ages < policy.window).astype(float)
    if SEEN in policy.row_state:
        last = -(-count // 20)
        probes: Array = ((ages < last) | (np.arange(count) % 20 == 0)).astype(float)
        return probes
    weights: Array = (policy.decay or 1.0) ** ages.astype(float)
    return weights


def _pooled(scores: Sequence[float], window: int, width: int) -> list[float]:
    """Each the mean of its neighbours, as zeros beyond both ends; the window above all."""
    before = list(scores[: max(0, len(scores) - window)])
    reach = width // 2
    padded = [0.0] * reach + before + [0.0] * reach
    pooled = [sum(padded[at : at + width]) / width for at in range(len(before))]
    return pooled + [window + 1.0] * (len(scores) - len(before))
