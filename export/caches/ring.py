"""What caches with a ring have in common: the last rows lie apart, as they came.

KIVI and ZipCache pack a full ring (`RingFlush`), ThinK lets one key leave at each step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgetok import names
from edgetok.export.attention import FORBIDDEN, DecoderLowering, StageModule, merge_heads
from edgetok.export.stages.decoder import Decoder, DecoderContext
from edgetok.kv.stores.buffers import Filing, Place

Rotary = list[tuple[Tensor, Tensor]]


class RingShape(Protocol):
    """Constants of a cache with a ring: `KiviShape`, `ZipShape` or `ThinkShape`."""

    @property
    def layers(self) -> int: ...
    @property
    def slots(self) -> int: ...
    @property
    def ring(self) -> int: ...
    @property
    def buffers(self) -> dict[str, Place]: ...
    @property
    def written(self) -> tuple[str, ...]: ...
    @property
    def waiting(self) -> tuple[str, ...]: ...
    @property
    def group(self) -> dict[str, Place]: ...
    @property
    def filing(self) -> Filing: ...


@dataclass
class PromptAttention:
    """A prompt that attends to itself unrounded; `fill` makes its rows the buffers of a layer.

    Args:
        shape: of the cache.
        lengths: int32 [L], true rows of each layer minus one.
        rotary: of each layer the tables of cos and sin, [positions, H / 2].
        lowering: of the flavour.
    """

    shape: Any
    lengths: Tensor
    rotary: Rotary
    lowering: DecoderLowering
    present: list[tuple[Tensor, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._last = torch.split(self.lengths, 1)

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        layer = len(self.present)
        last, tables = self._last[layer], self.rotary[layer]
        rows, key, value = self.lowering.prompt(query, key, value, scaling, last, *tables)
        self.present.append(self.fill(query, key, value, scaling, last))
        return rows

    def fill(
        self, query: Tensor, key: Tensor, value: Tensor, scaling: float, last: Tensor
    ) -> tuple[Tensor, ...]:
        """The buffers of a layer, in the order of `shape.buffers`.

        query [1, heads, S, H] is not rotated; key and value [1, G, S, H] are; `last` int32 [1] is
        the last true row.
        """
        raise NotImplementedError

    def rotate(self, rows: Tensor, places: Tensor) -> Tensor:
        """Rotary embedding of rows [1, heads, n, H] of the layer at places int64 [n]."""
        tables = self.rotary[len(self.present)]
        return self.lowering.rotate(merge_heads(rows), places, *tables, rows.shape[1])


def zero_padding(key: Tensor, value: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """Zeros instead of rows [1, G, S, H] that are not `true` [S]: the unmasked must be finite."""
    mask = true[:, None]
    return torch.where(mask, key, 0.0), torch.where(mask, value, 0.0)


def fit_rows(rows: Tensor, slots: int) -> Tensor:
    """Rows [1, G, S, H] as the first of so many slots; what is too much was not for them."""
    more = slots - rows.shape[2]
    return functional.pad(rows, (0, 0, 0, more)) if more >= 0 else rows[:, :, :slots]


@dataclass
class RowAttention:
    """The attention of a step whose row waits in a ring, in standard operators.

    Args:
        lengths: int32 [L], rows that each layer holds before this one.
        positions: int64 [L, 1], rotary position of the row.
        rotary: of each layer the tables of cos and sin, [positions, H / 2].
        lowering: of the flavour.
    """

    lengths: Tensor
    positions: Tensor
    rotary: Rotary
    lowering: DecoderLowering
    present: list[tuple[Tensor, ...]] = field(default_factory=list, kw_only=True)

    def __post_init__(self) -> None:
        self.counts = torch.split(self.lengths.to(torch.int64), 1)
        self._positions = torch.split(self.positions, 1)

    def rotate(self, rows: Tensor, layer: int) -> Tensor:
        """Rotary embedding of the row [1, heads, 1, H] at its position."""
        at, tables = self._positions[layer][0], self.rotary[layer]
        return self.lowering.rotate(merge_heads(rows), at, *tables, rows.shape[1])


def attend_row(query: Tensor, keys: Tensor, values: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """query [1, heads, 1, H] over rows [G, n, H] where `true` [n].

    Returns:
        [1, 1, heads * H], and the weights [G, heads / G, n].
    """
    (_, heads, _, head_dim), groups = query.shape, keys.shape[0]
    scores = query.reshape(groups, heads // groups, head_dim) @ keys.transpose(1, 2)
    weights = torch.softmax(torch.where(true, scores, FORBIDDEN), dim=-1)
    return (weights @ values).reshape(1, 1, heads * head_dim), weights


def weigh_rows(scores: Tensor, last: Tensor) -> Tensor:
    """Scores [..., C], in the order of the rows, as weights of those up to and with `last`."""
    true = torch.arange(scores.shape[-1]) <= last
    return torch.softmax(torch.where(true, scores, FORBIDDEN), dim=-1)


class RingDecoder(Decoder):
    """A decoder over a cache with a ring.

    Args:
        kinds: the parts of a layer that the stage writes, by name.
    """

    attention: Any  # lowers the attention of the stage, and lists the buffers that it wrote

    def __init__(self, context: DecoderContext, shape: Any, kinds: Iterable[str]) -> None:
        super().__init__(context)
        self.shape = shape
        self._kinds = tuple(kinds)

    @property
    def outputs(self) -> list[str]:
        return [names.LOGITS, *part_names("present", self.shape, self._kinds)]


class RingPrefill(RingDecoder):
    """input embeddings [1, S, D], padded on the right -> logits [1, W] and all buffers.

    Args:
        rows: S.
    """

    def __init__(self, context: DecoderContext, shape: Any, rows: int) -> None:
        super().__init__(context, shape, shape.buffers)
        self.rows = rows

    @property
    def inputs(self) -> dict[str, Tensor]:
        return self.context.prompt(self.rows)

    def forward(self, embeds: Tensor, last: Tensor, lengths: Tensor) -> Any:
        attention = self.attention(self.shape, lengths, self._rotary(), self.lowering)
        rows = self.attend(embeds, attention)
        held = [buffer for buffers in attention.present for buffer in buffers]
        return self.read_logits(rows[0].index_select(0, last)), *held


class RingDecode(RingDecoder):
    """One token id [1, 1] -> logits [1, W] and the buffers that a step writes."""

    def __init__(self, context: DecoderContext, shape: Any) -> None:
        super().__init__(context, shape, shape.written)

    @property
    def inputs(self) -> dict[str, Tensor]:
        return self.context.step() | past_parts(self.shape, self.shape.buffers)

    def forward(self, token: Tensor, lengths: Tensor, positions: Tensor, *past: Tensor) -> Any:
        size = len(self.shape.buffers)
        layers = [past[first : first + size] for first in range(0, len(past), size)]
        given = lengths, positions, self._rotary(), self.lowering
        attention = self.attention(*given, self.shape, layers)
        rows = self.attend(self.text.embed(token), attention)
        held = [buffer for buffers in attention.present for buffer in buffers]
        return self.read_logits(rows[0]), *held


class RingFlush(StageModule):
    """The full rings of all layers -> what is to be filed of each."""

    def __init__(self, shape: Any) -> None:
        super().__init__()
        self.shape = shape

    @property
    def inputs(self) -> dict[str, Tensor]:
        return past_parts(self.shape, self.shape.waiting)

    @property
    def outputs(self) -> list[str]:
        return part_names("flushed", self.shape, self.shape.group)

    def pack_all(self, waiting: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What each layer has waiting, one after another, -> all that is to be filed."""
        kinds, made = self.shape.waiting, list[Tensor]()
        for first in range(0, len(waiting), len(kinds)):
            made += self.pack(dict(zip(kinds, waiting[first : first + len(kinds)], strict=True)))
        return tuple(made)

    def pack(self, held: dict[str, Tensor]) -> Iterable[Tensor]:
        """The full ring of a layer, by part, -> the parts of `shape.group`."""
        raise NotImplementedError


def part_names(side: str, shape: RingShape, kinds: Any) -> list[str]:
    """Names of these parts of each layer, layer by layer."""
    return [names.buffer_name(side, kind, layer) for layer in range(shape.layers) for kind in kinds]


def past_parts(shape: RingShape, kinds: Any) -> dict[str, Tensor]:
    """Zeros for these parts of each layer, by name."""
    found = {}
    for layer in range(shape.layers):
        for kind in kinds:
            dtype, sizes = shape.buffers[kind]
            found[names.buffer_name("past", kind, layer)] = torch.zeros(
                sizes, dtype=getattr(torch, dtype)
            )
    return found
