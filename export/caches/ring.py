"""The stages of a KIVI cache: prefill that fills groups, decode over region and ring, the flush."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgetok import names
from edgetok.export.attention import DecoderSpelling, merge_heads
from edgetok.export.lowering.portable_decoder import FORBIDDEN
from edgetok.export.stages.decoder import Decoder
from edgetok.families.parts import TextParts
from edgetok.kv.stores import kivi
from edgetok.kv.stores.kivi import KiviShape
from edgetok.kv.stores.think import ThinkShape
from edgetok.kv.stores.zipcache import ZipShape

RingShape = KiviShape | ZipShape | ThinkShape


@dataclass
class FillingAttention:
    """A prompt that attends to itself unrounded, and leaves full groups and the rows behind them.

    Args:
        shape: of the cache.
        lengths: int32 [L], true rows of each layer minus one.
        rotary: of each layer the tables of cos and sin, [positions, H / 2].
        spelling: of the flavour.
    """

    shape: KiviShape
    lengths: Tensor
    rotary: list[tuple[Tensor, Tensor]]
    spelling: DecoderSpelling
    present: list[tuple[Tensor, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._last = torch.split(self.lengths, 1)

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        layer = len(self.present)
        last, tables = self._last[layer], self.rotary[layer]
        rows, key, value = self.spelling.prompt(query, key, value, scaling, last, *tables)
        # Zeros instead of padding: a row that no mask admits must still be finite.
        true = (torch.arange(key.shape[2]) <= last)[:, None]
        key, value = torch.where(true, key, 0.0), torch.where(true, value, 0.0)
        self.present.append((*self._fill(key, value), *self._wait(key, value, last.long())))
        return rows

    def _fill(self, key: Tensor, value: Tensor) -> list[Tensor]:
        """The region with all groups that the prompt can fill."""
        ring, bits = self.shape.ring, self.shape.bits
        count = key.shape[2] // ring * ring
        if not count:
            sizes = key.shape[1], self.shape.region, key.shape[3]
            return [*kivi.empty_region(*sizes, ring, bits).parts]
        packed = kivi.pack(key[:, :, :count], value[:, :, :count], ring, bits).parts
        slots = [place[1][2] for place in self.shape.buffers.values()]
        return [
            functional.pad(part, (0, 0, 0, rows - part.shape[2]))
            for part, rows in zip(packed, slots, strict=False)
        ]

    def _wait(self, key: Tensor, value: Tensor, last: Tensor) -> list[Tensor]:
        """The ring: rows behind the full groups, at least one."""
        ring = self.shape.ring
        first = torch.div(last, ring, rounding_mode="floor") * ring
        places = (first + torch.arange(ring)).clamp(max=key.shape[2] - 1)
        return [rows.index_select(2, places) for rows in (key, value)]


@dataclass
class RowAttention:
    """The attention of a step whose row waits in a ring, spelled in standard operators.

    Args:
        lengths: int32 [L], rows that each layer holds before this one.
        positions: int64 [L, 1], rotary position of the row.
        rotary: of each layer the tables of cos and sin, [positions, H / 2].
        spelling: of the flavour.
    """

    lengths: Tensor
    positions: Tensor
    rotary: list[tuple[Tensor, Tensor]]
    spelling: DecoderSpelling
    present: list[tuple[Tensor, ...]] = field(default_factory=list, kw_only=True)

    def __post_init__(self) -> None:
        self.counts = torch.split(self.lengths.to(torch.int64), 1)
        self._positions = torch.split(self.positions, 1)

    def rotate(self, rows: Tensor, layer: int) -> Tensor:
        """Rotary embedding of the row [1, heads, 1, H] at its position."""
        at, tables = self._positions[layer][0], self.rotary[layer]
        return self.spelling.turn(merge_heads(rows), at, *tables, rows.shape[1])


@dataclass
class RingAttention(RowAttention):
    """Over a region of groups and the ring behind it.

    Args:
        past: per layer its buffers, in the order of `KiviShape.buffers`.
    """

    shape: KiviShape
    past: list[tuple[Tensor, ...]]

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        layer = len(self.present)
        query, key = self.rotate(query, layer), self.rotate(key, layer)
        past, count, bits = self.past[layer], self.counts[layer], self.shape.bits
        ring = kivi.stage(kivi.Ring(*past[6:]), key, value, count)
        self.present.append((ring.keys, ring.values))
        keys, values, true = kivi.read(kivi.Region(*past[:6]), ring, count + 1, bits)
        return attend_row(query * scaling, keys[0], values[0], true)[0]


def attend_row(query: Tensor, keys: Tensor, values: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """query [1, heads, 1, H] over rows [G, n, H] where `true` [n].

    Returns:
        [1, 1, heads * H], and the weights [G, heads / G, n].
    """
    (_, heads, _, head_dim), groups = query.shape, keys.shape[0]
    scores = query.reshape(groups, heads // groups, head_dim) @ keys.transpose(1, 2)
    weights = torch.softmax(torch.where(true, scores, FORBIDDEN), dim=-1)
    return (weights @ values).reshape(1, 1, heads * head_dim), weights


class RingedDecoder(Decoder):
    """A decoder over a cache with a ring.

    Args:
        kinds: the parts of a layer that the stage writes, by name.
        spelling: of the flavour.
    """

    def __init__(
        self,
        text: TextParts,
        positions: int,
        shape: RingShape,
        kinds: Iterable[str],
        spelling: DecoderSpelling,
    ) -> None:
        super().__init__(text, positions, None, spelling)
        self.shape = shape
        self._kinds = tuple(kinds)

    @property
    def outputs(self) -> list[str]:
        return [names.LOGITS, *part_names("present", self.shape, self._kinds)]


class RingedPrefill(RingedDecoder):
    """input embeddings [1, S, D], padded on the right -> logits [1, W] and all buffers.

    `attention` attends to a prompt and lists the buffers of each layer.
    """

    attention: Any

    def __init__(
        self, text: TextParts, positions: int, shape: RingShape, spelling: DecoderSpelling
    ) -> None:
        super().__init__(text, positions, shape, shape.buffers, spelling)

    def forward(self, embeds: Tensor, last: Tensor, lengths: Tensor) -> Any:
        attention = self.attention(self.shape, lengths, self._rotary(), self.spelling)
        rows = self.attend(embeds, attention)
        held = [buffer for buffers in attention.present for buffer in buffers]
        return self.read_logits(rows[0].index_select(0, last)), *held


class RingedStep(RingedDecoder):
    """One token id [1, 1] -> logits [1, W] and the buffers that a step writes.

    `attention` attends to a row over the buffers of each layer and lists those it wrote.
    """

    attention: Any

    def __init__(
        self, text: TextParts, positions: int, shape: RingShape, spelling: DecoderSpelling
    ) -> None:
        super().__init__(text, positions, shape, shape.written, spelling)

    def forward(self, token: Tensor, lengths: Tensor, positions: Tensor, *past: Tensor) -> Any:
        size = len(self.shape.buffers)
        layers = [past[first : first + size] for first in range(0, len(past), size)]
        given = lengths, positions, self._rotary(), self.spelling
        attention = self.attention(*given, self.shape, layers)
        rows = self.attend(self.text.embed(token), attention)
        held = [buffer for buffers in attention.present for buffer in buffers]
        return self.read_logits(rows[0]), *held


class RingedFlush(nn.Module):
    """The full rings of all layers -> what is to be filed of each."""

    def __init__(self, shape: RingShape) -> None:
        super().__init__()
        self.shape = shape

    @property
    def outputs(self) -> list[str]:
        return part_names("flushed", self.shape, self.shape.group)


class FillingPrefill(RingedPrefill):
    """A prompt of a KIVI cache."""

    attention = FillingAttention


class RingDecode(RingedStep):
    """A step of a KIVI cache: it writes the rings, the region stays as it is."""

    attention = RingAttention


class Flush(RingedFlush):
    """The full rings of all layers -> what they are as a group of the region."""

    shape: KiviShape

    def forward(self, *rings: Tensor) -> tuple[Tensor, ...]:
        ring, bits = self.shape.ring, self.shape.bits
        pairs = zip(rings[::2], rings[1::2], strict=True)
        groups = [kivi.pack(keys, values, ring, bits).parts for keys, values in pairs]
        return tuple(part for parts in groups for part in parts)


def part_names(side: str, shape: RingShape, kinds: Any) -> list[str]:
    """Names of these parts of each layer, layer by layer."""
    return [names.part(side, kind, layer) for layer in range(shape.layers) for kind in kinds]


def past_parts(shape: RingShape, kinds: Any) -> dict[str, Tensor]:
    """Zeros for these parts of each layer, by name."""
    dtypes = {"int8": torch.int8, "int32": torch.int32, "float32": torch.float32}
    found = {}
    for layer in range(shape.layers):
        for kind in kinds:
            dtype, sizes = shape.buffers[kind]
            found[names.part("past", kind, layer)] = torch.zeros(sizes, dtype=dtypes[dtype])
    return found
