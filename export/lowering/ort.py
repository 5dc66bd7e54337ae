"""The `ort` flavour: fused `com.microsoft` operators that ONNX Runtime has kernels for."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from edgetok import names
from edgetok.export.attention import (
    CacheBuffer,
    DecoderLowering,
    TowerEmitter,
    attention_extras,
    lowered_norms,
    merge_heads,
    rotary_part,
)
from edgetok.export.lowering.names import CONTRIB
from edgetok.export.lowering.ort_eviction import attend_prompt
from edgetok.kv.stored import store, unpack
from edgetok.kv.stores.tidaldecode import gather_rows

AFTER_SOFTMAX = 2  # what GroupQueryAttention shall return of its attention


class TowerAttention(TowerEmitter):
    """Full attention as one MultiHeadAttention."""

    def lower(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        return _multi_head(query, key, value, scaling, [])


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, bias: Tensor | None
) -> Tensor:
    """Full attention of one image, with a bias [n] on the keys: [heads, n, H] -> [n, heads * H]."""
    n = query.shape[1]
    # The kernel broadcasts over heads, and wants a row of bias for each query.
    extra = [] if bias is None else [None, None, bias.reshape(1, 1, 1, n).expand(1, 1, n, n)]
    rows = _multi_head(query[None], key[None], value[None], scaling, extra)
    return rows[0]


def _multi_head(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, extra: list[Any]
) -> Tensor:
    inputs = [merge_heads(part) for part in (query, key, value)]
    return torch.onnx.ops.symbolic(
        f"{CONTRIB}::MultiHeadAttention",
        [*inputs, *extra],
        attrs={"num_heads": query.shape[1], "scale": float(scaling)},
        dtype=query.dtype,
        shape=inputs[0].shape,
        version=1,
    )


@dataclass
class CacheAttention:
    """Causal attention over the KV buffer as one GroupQueryAttention, rotary inside.

    Rows that begin a cache in whole numbers attend to each other as they are, and are rounded into
    it afterwards: the operator's kernel over whole numbers takes 3.5 times as long for a prompt.

    Args:
        past: per layer key and value buffers [1, G, C, H], float32 or int8.
        lengths: int32 [L], true rows of each layer after this call minus one.
        positions: int64 [L, rows], rotary positions of the rows that are added to each layer; None
            where the rows begin a cache, and are numbered from 0.
        rotary: of each layer the tables of cos and sin, [positions, H / 2].
        scales: per layer key and value scales [1, G, 1, H], for int8 and int4 buffers.
        rows_at: int64 [S], rotary positions of rows that begin a cache, where those are not 0, 1, …
        bits: of a buffer's numbers, where there are scales.
        weighed: collects attention of the added row, per layer [1, heads, 1, C], if it is a list.
    """

    past: list[tuple[Tensor, Tensor]]
    lengths: Tensor
    positions: Tensor | None
    rotary: list[tuple[Tensor, Tensor]]
    scales: list[tuple[Tensor, Tensor]] | None
    present: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    rows_at: Tensor | None = None
    bits: int = 8
    weighed: list[Tensor] | None = None

    def __post_init__(self) -> None:
        self._lengths = torch.split(self.lengths, 1)
        self._positions = () if self.positions is None else torch.split(self.positions, 1)

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        layer = len(self.present)
        rounds_after = bool(self.scales) and not self._positions
        past = [None, None] if rounds_after else [*self.past[layer]]
        inputs = [merge_heads(part) for part in (query, key, value)]
        tables: list[Tensor | None] = [*self.rotary[layer]]
        if self.rows_at is not None:  # the operator would number the rows of a prompt from 0
            for place, heads in enumerate((query.shape[1], key.shape[1])):
                inputs[place] = rotate(inputs[place], self.rows_at, *self.rotary[layer], heads)
            tables = [None, None]
        # As many rows as the cache could hold, not as it does: so every shape is a constant.
        seen = self.past[layer][0].shape[2] if self._positions else query.shape[2]
        ends = [self._lengths[layer], torch.tensor([seen], dtype=torch.int32), *tables]
        extra: list[Tensor | None] = [*self._positions[layer : layer + 1]]
        if self.scales and not rounds_after:
            extra = [*extra, None, None, *self.scales[layer]]
        attrs: dict[str, Any] = {
            "num_heads": query.shape[1],
            "kv_num_heads": key.shape[1],
            "scale": float(scaling),
            "do_rotary": int(self.rows_at is None),
        }
        attrs |= attention_extras(module)
        if self.scales and not rounds_after:
            attrs |= {
                "kv_cache_bit_width": self.bits,
                "k_quant_type": "PER_CHANNEL",
                "v_quant_type": "PER_CHANNEL",
            }
        held = (key, value) if rounds_after else self.past[layer]
        dtypes = [query.dtype, *(part.dtype for part in held)]
        shapes = [inputs[0].shape, *(part.shape for part in held)]
        if self.weighed is not None:
            attrs["qk_output"] = AFTER_SOFTMAX
            dtypes.append(torch.float32)
            shapes.append(torch.Size([*query.shape[:3], seen]))
        rows, *present = torch.onnx.ops.symbolic_multi_out(
            f"{CONTRIB}::GroupQueryAttention",
            [*inputs, *past, *ends, *extra],
            attrs=attrs,
            dtypes=dtypes,
            shapes=shapes,
            version=1,
        )
        if rounds_after:
            self.put(query, present[0], present[1])
        else:
            self.present.append((present[0], present[1]))
        if self.weighed is not None:
            self.weighed.append(present[2])
        return rows

    def append(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Put a row [1, G, 1, H] after those of the next layer; returns the rotated query."""
        layer, pair = len(self.present), []
        query, key = (self._rotate(part, layer) for part in (query, key))
        place = self._lengths[layer].long().reshape(1, 1, 1, 1)
        for number, (past, row) in enumerate(zip(self.past[layer], (key, value), strict=True)):
            if self.scales:
                row = store(row[0], self.scales[layer][number][0], self.bits).unsqueeze(0)
            pair.append(past.scatter(2, place.expand(row.shape), row))
        self.present.append((pair[0], pair[1]))
        return query

    def pick(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [1, G, n, H] that the last layer holds at places [G, n]."""
        layer = len(self.present) - 1
        rows = [gather_rows(buffer, places) for buffer in self.present[layer]]
        if self.scales:
            scales = self.scales[layer]
            rows = [unpack(r, self.bits) * s for r, s in zip(rows, scales, strict=True)]
        return rows[0], rows[1]

    def _rotate(self, rows: Tensor, layer: int) -> Tensor:
        """Rotary embedding of added rows [1, heads, 1, H]."""
        places = self._positions[layer][0]
        return rotate_heads(merge_heads(rows), places, *self.rotary[layer], rows.shape[1])

    def put(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Let rotated rows [1, G, S, H] begin the next layer's cache, as the operator would.

        Returns queries, keys and values as its attention reads them.
        """
        layer, pair = len(self.present), [key, value]
        if self.scales:
            pair = [
                store(rows[0], scale[0], self.bits).unsqueeze(0)
                for rows, scale in zip(pair, self.scales[layer], strict=True)
            ]
        self.present.append(self.file(self.past[layer], (pair[0], pair[1])))
        return query, key, value

    def file(
        self, past: tuple[Tensor, Tensor], rows: tuple[Tensor, Tensor], *_: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The buffers of a layer with stored rows in their first slots."""
        key, value = (
            torch.cat([r, p[:, :, r.shape[2] :]], 2) for r, p in zip(rows, past, strict=True)
        )
        return key, value


def rotate(rows: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
    """Rotary embedding of rows [1, S, heads * H] at positions int64 [S], as one operator."""
    return torch.onnx.ops.symbolic(
        f"{CONTRIB}::RotaryEmbedding",
        [rows, positions.unsqueeze(0), cos, sin],
        attrs={"num_heads": heads, **rotary_part(rows.shape[2] // heads, cos)},
        dtype=rows.dtype,
        shape=rows.shape,
        version=1,
    )


def rotate_heads(rows: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
    """`rotate`, with the heads apart: -> [1, heads, S, H]."""
    rotated = rotate(rows, positions, cos, sin, heads)
    return rotated.reshape(1, rows.shape[1], heads, -1).transpose(1, 2)


fused_norms = partial(lowered_norms, operator="SimplifiedLayerNormalization", version=1)


def lower_decoder(kv: str) -> DecoderLowering:
    """How this flavour lowers a decoder whose cache is `fp32`, `int8` or `int4`."""
    attention = partial(CacheAttention, bits=4 if kv == "int4" else 8)
    dtype = {"fp32": torch.float32, "int8": torch.int8, "int4": torch.uint8}[kv]
    kinds = (names.past_key, names.past_value)
    buffers = tuple(CacheBuffer(name, dtype, _half if kv == "int4" else int) for name in kinds)
    parts = attention, fused_norms, buffers, rotate_heads, attend_prompt, stretched
    return DecoderLowering(*parts, folded=lambda _layers, _scales: nullcontext())


def stretched(past: tuple[Tensor, ...], rows: int) -> tuple[Tensor, ...]:
    """Buffers with room for so many rows, their own again and again."""
    times = -(-rows // past[0].shape[2])
    return tuple(torch.cat([b] * times, 2) if times > 1 else b for b in past)


def _half(head_dim: int) -> int:
    return head_dim // 2
