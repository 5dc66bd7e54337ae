"""One driver for every method that acts inside an encoder: block by block, a plan reduces rows.

The encoder is seen through two functions per block, so that the same driver runs Hugging Face's
layers while they are traced and plain arithmetic in tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from edgetok.tokens.plan import Plan
from edgetok.tokens.schedules import Encoder

Place = Literal["before values", "after attention", "after block"]
# Queries, keys and values [heads, n, H] and the scale of the scores -> [n, heads * H].
Mix = Callable[[Tensor, Tensor, Tensor, float], Tensor]
# The same, fused, with a bias [n] on the keys or None.
Fused = Callable[[Tensor, Tensor, Tensor, float, Tensor | None], Tensor]


@dataclass(frozen=True, eq=False)
class Look:
    """What a method may look at in one block.

    Args:
        x: [n, V], the rows to reduce, prefix rows first.
        query, key, value: [heads, n, H] of this block, the query scaled.
        sizes: [n], how many patches each row stands for.
        bias: [n], added to the scores of each key where attention knows the sizes, else None.
        encoder: the whole tower.
        block: its number, from 0.
        running: [n - prefix], what `observe` returned at the block before, if it did.
    """

    x: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    sizes: Tensor
    encoder: Encoder
    block: int
    bias: Tensor | None = None
    running: Tensor | None = None

    @property
    def prefix(self) -> int:
        return self.encoder.prefix

    @property
    def patches(self) -> Tensor:
        """[n - prefix, V]."""
        return self.x[self.prefix :]

    @property
    def patch_sizes(self) -> Tensor:
        """[n - prefix]."""
        return self.sizes[self.prefix :]

    def mean_keys(self) -> Tensor:
        """[n, H], mean over heads."""
        return self.key.mean(0)

    def attention(self) -> Tensor:
        """[heads, n, n], rows of sum 1: the whole map, which is dear."""
        return torch.softmax(self._scores(self.query), dim=-1)

    def received(self) -> Tensor:
        """[n], attention that each row receives, mean over heads and queries."""
        return self.attention().mean((0, 1))

    def cls_attention(self) -> Tensor:
        """[n - prefix], attention of the CLS row, mean over heads: one row beside the fused map."""
        row = torch.softmax(self._scores(self.query[:, :1]), dim=-1)
        return row[:, 0, self.prefix :].mean(0)

    def importance(self) -> Tensor:
        """[n - prefix], attention of the CLS row, or that of all rows where there is none."""
        return self.cls_attention() if self.prefix else self.received()

    def _scores(self, query: Tensor) -> Tensor:
        scores = query @ self.key.transpose(1, 2)
        return scores if self.bias is None else scores + self.bias


class Reducer(Protocol):
    """What the driver asks of a method; `edgetok.methods.inside.Inside` is one."""

    @property
    def place(self) -> Place: ...

    @property
    def proportional(self) -> bool: ...

    @property
    def reduce(self) -> Callable[[Look, int], Plan]: ...

    @property
    def observe(self) -> Callable[[Look], Tensor] | None: ...


class EncoderBlock(Protocol):
    """One block, its residual sums left to the driver."""

    def attend(self, x: Tensor, mix: Mix) -> Tensor:
        """Norm, projections, `mix` and output projection: [n, V] -> [n, V]."""
        ...

    def feed(self, x: Tensor) -> Tensor:
        """Norm and MLP: [n, V] -> [n, V]."""
        ...


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows between two blocks.

    Args:
        x: [n, V], prefix rows first.
        indices: [n] int64, the patch that each is or is centred on; -1 for prefix rows and
            mixtures without a centre.
        sizes: [n] float32, how many patches each stands for; 1 for prefix rows.
    """

    x: Tensor
    indices: Tensor
    sizes: Tensor
    running: Tensor | None = None

    @classmethod
    def start(cls, x: Tensor, prefix: int) -> Rows:
        """All rows as the embedding makes them."""
        patches = torch.arange(x.shape[0] - prefix)
        indices = torch.cat([torch.full((prefix,), -1), patches]) if prefix else patches
        return cls(x, indices, torch.ones(x.shape[0]))

    def after(self, plan: Plan, prefix: int) -> Rows:
        """What a plan for these rows leaves of them."""
        centres = self.indices.index_select(0, plan.indices.clamp(min=0))
        indices = torch.where(plan.indices < 0, -1, centres)
        running = self.running
        if running is not None:
            running = running.index_select(0, plan.indices[prefix:] - prefix)
        return Rows(plan.apply(self.x), indices, plan.sizes, running)


def reduce_inside(
    blocks: Sequence[EncoderBlock],
    x: Tensor,
    reducer: Reducer,
    encoder: Encoder,
    schedule: Sequence[int],
    fused: Fused,
    watch: Callable[[int, Rows], None] = lambda _number, _rows: None,
) -> Rows:
    """Run all blocks over x [prefix + N, V], leaving `schedule[b]` patches behind block b.

    `watch` is told what is left behind each block.
    """
    rows, left = Rows.start(x, encoder.prefix), encoder.n_tokens
    for number, (block, keep) in enumerate(zip(blocks, schedule, strict=True)):
        biased = reducer.proportional and left < encoder.n_tokens  # sizes of 1 add nothing
        step = _Step(block, reducer, encoder, number, keep if keep < left else None, fused, biased)
        rows, left = step.run(rows), keep
        watch(number, rows)
    return rows


@dataclass(frozen=True, eq=False)
class _Step:
    """One block; `keep` is None where nothing is reduced."""

    block: EncoderBlock
    reducer: Reducer
    encoder: Encoder
    number: int
    keep: int | None
    fused: Fused
    biased: bool

    def run(self, rows: Rows) -> Rows:
        if self.reducer.place == "before values" and self.keep is not None:
            return self._feed(self._merge_first(rows, self.keep))
        before, seen = rows.sizes, _Seen()
        rows = replace(rows, x=rows.x + self.block.attend(rows.x, seen.mixing(self._fuse(before))))
        if self.reducer.place == "after attention":
            return self._feed(self._reduced(rows, seen))
        return self._reduced(self._feed(rows), seen)

    def _bias(self, sizes: Tensor) -> Tensor | None:
        return sizes.log() if self.biased else None

    def _fuse(self, sizes: Tensor) -> Mix:
        bias = self._bias(sizes)
        return lambda query, key, value, scaling: self.fused(query, key, value, scaling, bias)

    def _feed(self, rows: Rows) -> Rows:
        return replace(rows, x=rows.x + self.block.feed(rows.x))

    def _look(self, rows: Rows, seen: _Seen) -> Look:
        bias = self._bias(rows.sizes)
        return Look(
            rows.x, *seen.projections, rows.sizes, self.encoder, self.number, bias, rows.running
        )

    def _reduced(self, rows: Rows, seen: _Seen) -> Rows:
        if self.reducer.observe is not None:
            rows = replace(rows, running=self.reducer.observe(self._look(rows, seen)))
        if self.keep is None:
            return rows
        return rows.after(self.reducer.reduce(self._look(rows, seen), self.keep), self.prefix)

    @property
    def prefix(self) -> int:
        return self.encoder.prefix

    def _merge_first(self, rows: Rows, keep: int) -> Rows:
        """Attention of all rows, merged along with them, over the values of the merged rows."""
        seen = _Seen()
        self.block.attend(rows.x, seen.mixing(_nothing))  # only queries and keys are used of this
        look = self._look(rows, seen)
        plan = self.reducer.reduce(look, keep)
        maps = merge_attention(look.attention(), plan)
        rows = rows.after(plan, self.prefix)

        def reuse(_query: Tensor, _key: Tensor, value: Tensor, _scaling: float) -> Tensor:
            return (maps @ value).transpose(0, 1).flatten(1)

        return replace(rows, x=rows.x + self.block.attend(rows.x, reuse))


class _Seen:
    """Notes the scaled query, the key and the value of the block that it looks into."""

    projections: tuple[Tensor, Tensor, Tensor]

    def mixing(self, mix: Mix) -> Mix:
        def note(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
            self.projections = (query * scaling, key, value)
            return mix(query, key, value, scaling)

        return note


def _nothing(query: Tensor, _key: Tensor, _value: Tensor, _scaling: float) -> Tensor:
    return torch.zeros(query.shape[1], query.shape[0] * query.shape[2])


def merge_attention(maps: Tensor, plan: Plan) -> Tensor:
    """Attention of merged rows from that of all: keys are summed, queries averaged as the rows.

    maps [heads, n, n] -> [heads, m, m].
    """
    return plan.matrix() @ maps @ plan.shares().T
