"""The decoder of the `portable` flavour: cache and attention in standard operators of opset 24.

Rows enter the cache by `TensorScatter`, or `ScatterND` where they are bytes, since TensorRT
scatters tensors of floats only. A step's `Attention` has one output, as TensorRT refuses more, and
reads the rows that a mask of booleans admits. Past and present may be bound to the same memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from edgetok import names
from edgetok.export.attention import (
    FORBIDDEN,
    CacheBuffer,
    DecoderLowering,
    lowered_norms,
    merge_heads,
    turned_part,
)
from edgetok.kv.stores.slots import BITS, build_equaliser, dequantize_rows, quantize_rows, width_of
from edgetok.kv.stores.tidaldecode import gather_rows

OPSET = 24


def lower_decoder(kv: str) -> DecoderLowering:
    """How this flavour lowers a decoder whose cache is `fp32`, `int8` or `int4`."""
    lowering = partial(
        DecoderLowering,
        norms=standard_norms,
        turn=turn_merged,
        prompt=attend_prompt,
        scratch=no_past,
        folded=folded_values,
    )
    rows, scales = (
        (names.past_key, names.past_value),
        (names.past_key_scale, names.past_value_scale),
    )
    if kv == "fp32":
        buffers = tuple(CacheBuffer(name, torch.float32, int) for name in rows)
        return lowering(CacheAttention, buffers=buffers)
    width = partial(width_of, bits=BITS[kv])
    buffers = tuple(CacheBuffer(name, torch.int8, width) for name in rows)
    buffers += tuple(CacheBuffer(name, torch.float32, lambda _: 1) for name in scales)
    attention = partial(SlotAttention, bits=BITS[kv])
    return lowering(attention, buffers=buffers)


def no_past(past: tuple[Tensor, ...], rows: int) -> tuple[Tensor, ...]:
    """TensorRT lets nothing but the host read what `TensorScatter` makes."""
    return ()


@dataclass
class CacheAttention:
    """Causal attention over float32 buffers.

    Rows that begin a cache attend to each other as they are; rows after it attend to what the
    buffers then hold.

    Args:
        past: per layer the buffers of the lowering; nothing where a prompt's rows shall be left in
            `present` as they are stored, to be chosen from.
        lengths: int32 [L], true rows of each layer after this call minus one.
        positions: int64 [L, R], rotary positions of R rows that are added to each layer; None
            where the rows begin a cache, and are numbered from 0.
        rotary: of each layer the tables of cos and sin, [positions, H / 2].
        scales: per layer what is measured of key and value channels, [1, G, 1, H], or None.
        bits: of a buffer's numbers, where there are scales.
        weighed: collects attention of the added row, per layer [1, heads, 1, C], if it is a list.
        rows_at: int64 [S], rotary positions of rows that begin a cache, where those are not 0, 1, …
    """

    past: list[tuple[Tensor, ...]]
    lengths: Tensor
    positions: Tensor | None
    rotary: list[tuple[Tensor, Tensor]]
    scales: list[tuple[Tensor, Tensor]] | None
    bits: int = 8
    present: list[tuple[Tensor, ...]] = field(default_factory=list)
    weighed: list[Tensor] | None = None
    rows_at: Tensor | None = None

    def __post_init__(self) -> None:
        self._last = torch.split(self.lengths.to(torch.int64), 1)
        self._positions = () if self.positions is None else torch.split(self.positions, 1)

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        layer, count = len(self.present), query.shape[2]
        query, key = self._rotate(query, layer), self._rotate(key, layer)
        query, key, value = self.equalise(layer, query, key, value)
        places = torch.arange(count)
        start = torch.zeros(1, dtype=torch.int64)
        if self._positions:
            start = self._last[layer] - (count - 1)
        stored, past = self.store(key, value), self.past[layer]
        self.present.append(self.file(past, stored, start) if past else stored)
        if self._positions:
            key, value = self.read(self.present[layer])
            places = places + start
        seen = torch.arange(key.shape[2])[None] <= places[:, None]  # [S, C]
        if count == 1 and self.weighed is None:
            return _attend(query, key, value, scaling, seen)
        rows, weights = attend_in_steps(query, key, value, scaling, seen)
        if self.weighed is not None:  # a second output of `Attention` is more than engines take
            self.weighed.append(weights)
        return merge_heads(rows)

    def append(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Put a row [1, G, 1, H] after those of the next layer; returns the rotated query."""
        layer = len(self.present)
        query, key = self._rotate(query, layer), self._rotate(key, layer)
        query, key, value = self.equalise(layer, query, key, value)
        self.present.append(self.file(self.past[layer], self.store(key, value), self._last[layer]))
        return query

    def pick(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [1, G, n, H] that the last layer holds at places [G, n]."""
        return self.read(tuple(gather_rows(buffer, places) for buffer in self.present[-1]))

    def put(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Let rotated rows [1, G, S, H] begin the next layer's cache.

        Returns queries, keys and values as its attention reads them.
        """
        layer, start = len(self.present), torch.zeros(1, dtype=torch.int64)
        query, key, value = self.equalise(layer, query, key, value)
        self.present.append(self.file(self.past[layer], self.store(key, value), start))
        return query, key, value

    def equalise(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rows as the store wants them; the products of queries and keys stay what they are."""
        return query, key, value

    def store(self, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """Rows [1, G, S, H] as the buffers have them, [1, G, S, …] each."""
        return key, value

    def file(
        self, past: tuple[Tensor, ...], rows: tuple[Tensor, ...], start: Tensor
    ) -> tuple[Tensor, ...]:
        """The buffers of a layer with stored rows from slot `start` [1] on."""
        return _scatter(past[0], rows[0], start), _scatter(past[1], rows[1], start)

    def read(self, present: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Keys and values [1, G, C, H] of what a layer's buffers hold."""
        return present[0], present[1]

    def _rotate(self, rows: Tensor, layer: int) -> Tensor:
        if self._positions:
            places = self._positions[layer][0]
        else:
            places = torch.arange(rows.shape[2]) if self.rows_at is None else self.rows_at
        return turn_heads(rows, places, *self.rotary[layer])


class SlotAttention(CacheAttention):
    """Over bytes with a scale per slot and head (`edgetok.kv.stores.slots`)."""

    def equalise(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return equalise_rows((self.scales or [])[layer], query, key, value)

    def store(self, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        pairs = [quantize_rows(rows, self.bits) for rows in (key, value)]
        return *(levels for levels, _ in pairs), *(scales for _, scales in pairs)

    def file(
        self, past: tuple[Tensor, ...], rows: tuple[Tensor, ...], start: Tensor
    ) -> tuple[Tensor, ...]:
        levels = [_scatter_bytes(past[n], rows[n], start) for n in (0, 1)]
        return *levels, *(_scatter(past[n], rows[n], start) for n in (2, 3))

    def read(self, present: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        keys, values, key_scales, value_scales = present
        return (
            dequantize_rows(keys, key_scales, self.bits),
            dequantize_rows(values, value_scales, self.bits),
        )


def turn_heads(rows: Tensor, positions: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of rows [1, heads, S, H] at positions int64 [S], as one operator."""
    return torch.onnx.ops.symbolic(
        "RotaryEmbedding",
        (rows, cos, sin, positions[None]),
        attrs=turned_part(rows.shape[3], cos),
        dtype=rows.dtype,
        shape=rows.shape,
        version=OPSET,
    )


def turn_merged(rows: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
    """The same of rows [1, S, heads * H]: -> [1, heads, S, H]."""
    split = rows.reshape(1, rows.shape[1], heads, -1).transpose(1, 2)
    return turn_heads(split, positions, cos, sin)


def equalise_rows(
    scales: tuple[Tensor, Tensor], query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Channels made alike by constants; the products of queries and keys stay what they are.

    Args:
        scales: what is measured of key and value channels, [1, G, 1, H].
        query: [1, heads, S, H]; key, value: [1, G, S, H].
    """
    of_keys, of_values = (build_equaliser(scale) for scale in scales)
    heads_per_group = query.shape[1] // key.shape[1]
    query = query * of_keys.repeat_interleave(heads_per_group, dim=1)
    return query, key * (1 / of_keys), value * (1 / of_values)


def _attend(query: Tensor, key: Tensor, value: Tensor, scaling: float, seen: Tensor) -> Tensor:
    """Attention where `seen` [S, C] is true, as one operator."""
    rows = torch.onnx.ops.symbolic(
        "Attention",
        (query, key, value, seen[None, None]),
        attrs={"scale": float(scaling)},
        dtype=query.dtype,
        shape=query.shape,
        version=OPSET,
    )
    return merge_heads(rows)


def attend_in_steps(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, seen: Tensor
) -> tuple[Tensor, Tensor]:
    """The same in single operators: rows [1, heads, S, H] and attention [1, heads, S, C].

    TensorRT for RTX 1.7 builds no float32 engine of a decoder's `Attention` with many rows.
    """
    (heads, count, head_dim), groups = query.shape[1:], key.shape[1]
    query = (query * scaling).reshape(groups, heads // groups, count, head_dim)
    scores = query @ key[0].transpose(1, 2).unsqueeze(1)  # [G, heads / G, S, C]
    scores = torch.where(seen, scores, FORBIDDEN)
    weights = torch.softmax(scores, dim=-1)
    rows = weights @ value[0].unsqueeze(1)
    return rows.reshape(1, heads, count, head_dim), weights.reshape(1, heads, count, -1)


def attend_prompt(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    last: Tensor,
    cos: Tensor,
    sin: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Causal attention of a prompt without a cache, as `ort_eviction.attend_prompt`.

    `last` is not read: what a padded row sees reaches no true one.
    """
    place = torch.arange(query.shape[2])
    query, key = (turn_heads(part, place, cos, sin) for part in (query, key))
    rows, _ = attend_in_steps(query, key, value, scaling, place[None] <= place[:, None])
    return merge_heads(rows), key, value


def _scatter(buffer: Tensor, rows: Tensor, start: Tensor) -> Tensor:
    return torch.onnx.ops.symbolic(
        "TensorScatter",
        (buffer, rows, start),
        attrs={"axis": 2, "mode": "linear"},
        dtype=buffer.dtype,
        shape=buffer.shape,
        version=OPSET,
    )


def _scatter_bytes(buffer: Tensor, rows: Tensor, start: Tensor) -> Tensor:
    """As `_scatter`, row by row: an index [G, S, 3] names the place of each."""
    groups, count = rows.shape[1:3]
    group = torch.arange(groups).reshape(groups, 1, 1).expand(groups, count, 1)
    slot = (torch.arange(count) + start).reshape(1, count, 1).expand(groups, count, 1)
    places = torch.cat([torch.zeros_like(group), group, slot], dim=-1)
    return torch.onnx.ops.symbolic(
        "ScatterND",
        (buffer, places, rows[0]),
        dtype=buffer.dtype,
        shape=buffer.shape,
        version=OPSET,
    )


standard_norms = partial(lowered_norms, operator="RMSNormalization", version=OPSET)


# --- the values' equaliser, in the weights that read them ----------------------------------------


@contextmanager
def folded_values(
    layers: Sequence[Any], scales: list[tuple[Tensor, Tensor]] | None
) -> Iterator[None]:
    """Let output projections multiply by the values' equalisers, for the time of a trace."""
    factors = factors_of(layers, scales)
    linears = [m for layer in layers for m in layer.modules() if id(m) in factors]
    before = [linear.weight for linear in linears]
    try:
        for linear in linears:
            folded = (linear.weight * factors[id(linear)]).detach()
            linear.weight = nn.Parameter(folded, requires_grad=False)
        yield
    finally:
        for linear, weight in zip(linears, before, strict=True):
            linear.weight = weight


def factors_of(
    layers: Sequence[Any], scales: list[tuple[Tensor, Tensor]] | None
) -> dict[int, Tensor]:
    """What each input of an output projection is multiplied by: [heads * H], by its `id`."""
    if scales is None:
        return {}
    found = {}
    for layer, (_, measured) in zip(layers, scales, strict=True):
        attention, equaliser = layer.self_attn, build_equaliser(measured)
        projection = attention.o_proj if hasattr(attention, "o_proj") else attention.out_proj
        groups, head_dim = equaliser.shape[1], equaliser.shape[3]
        heads = projection.in_features // head_dim
        shared = equaliser[0].expand(groups, heads // groups, head_dim)
        found[id(projection)] = shared.reshape(-1)
    return found
