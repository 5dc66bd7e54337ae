"""Attention over a prompt that leaves packed rows: what a policy's prefill emits."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from edgetok.export.attention import merge_heads
from edgetok.export.lowering.names import CONTRIB
from edgetok.kv import EvictionPlan
from edgetok.kv.mixing import mix_rows
from edgetok.kv.saliency import first_planes, received, visible
from edgetok.kv.select import choose, rank, take, turn, turn_back
from edgetok.kv.stored import store

Scales = list[tuple[Tensor, Tensor]]


@dataclass
class PackingAttention:
    """Causal attention of a prompt as one GroupQueryAttention, whose rows are packed after it.

    The prompt's rows exist only between two operators. A prompt that fits is written as it is; of
    a longer one the rows that the policy keeps are gathered, turned and rounded.

    Args:
        plan: the policy, and slots and kept rows of each layer.
        lengths: int32 [L], true rows of each layer minus one.
        cos, sin: rotary tables [positions, H / 2].
        scales: per layer key and value scales [1, G, 1, H], for a cache of `bits` bits.
        visual_start: int64 [1], the first visual row.
        text_rows: rows of text that the prompt has room for; the others are visual.
        draws: float32 [L, G, numbers] of a policy that draws.
        back: cos and sin of turns back, [positions, H / 2].
    """

    plan: EvictionPlan
    lengths: Tensor
    cos: Tensor
    sin: Tensor
    scales: Scales | None
    bits: int
    visual_start: Tensor | None
    text_rows: int
    draws: Tensor | None
    back: tuple[Tensor, Tensor]
    present: list[tuple[Tensor, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lengths = torch.split(self.lengths, 1)

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        layer = len(self.present)
        query, key, value = self.equalise(layer, query, key, value)
        rows, keys, values = self.attend(layer, query, key, value, scaling)
        count = self._lengths[layer][0].long() + 1
        planes = self._planes(layer, query[0], keys, count, scaling)
        self.present.append(self._pack(layer, keys, values, planes, count))
        return rows

    def equalise(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rows as the store wants them; the products of queries and keys stay what they are."""
        return query, key, value

    def plain(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [G, n, H] as the model made them, from what the store wants."""
        return keys, values

    def even(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of `plain`."""
        return keys, values

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rows [1, S, heads * H], rotated keys and values [G, S, H]."""
        last = self._lengths[layer]
        rows, keys, values = attend_prompt(query, key, value, scaling, last, self.cos, self.sin)
        return rows, keys[0], values[0]

    def _planes(
        self, layer: int, query: Tensor, keys: Tensor, count: Tensor, scaling: float
    ) -> Tensor | None:
        """What is remembered of each row, [P, G, S], or None for nothing."""
        policy, (groups, rows, _) = self.plan.policy, keys.shape
        if not policy.planes:
            return None
        scores, seen = torch.zeros(groups, rows), torch.zeros(rows)
        if policy.asks is not None:
            asked, weights = policy.asks(rows, count)
            asking = turn(query.index_select(1, asked), asked, self.cos, self.sin)
            scores = received(asking, asked, weights, keys, scaling)
            seen = visible(asked, weights, rows)
        if self.draws is not None:
            scores = self.draws[layer].index_select(1, torch.arange(rows) % self.draws.shape[-1])
        return first_planes(policy, scores, seen, self._text(rows), count)

    def _text(self, rows: int) -> Tensor:
        """1 at rows of text, 0 at visual ones: [S]."""
        if self.visual_start is None:
            return torch.zeros(rows)
        place = torch.arange(rows) - self.visual_start
        return ((place < 0) | (place >= rows - self.text_rows)).float()

    def _pack(
        self, layer: int, keys: Tensor, values: Tensor, planes: Tensor | None, count: Tensor
    ) -> tuple[Tensor, ...]:
        """Buffers of a layer: key and value [1, G, C, H], state [P, G, C]."""
        slots, missing = self.plan.slots[layer], self.plan.slots[layer] - keys.shape[1]
        state: list[Tensor] = []
        if missing >= 0:  # any prompt fits
            keys, values = (nn.functional.pad(part, (0, 0, 0, missing)) for part in (keys, values))
            state = [] if planes is None else [nn.functional.pad(planes, (0, missing))]
        else:
            ranks = (
                torch.zeros(keys.shape[:2]) if planes is None else rank(self.plan.policy, planes)
            )
            chosen = self._choose(layer, ranks, count, self.plan.keep[layer])
            packed = nn.functional.pad(chosen, (0, slots - chosen.shape[1]))
            # Which row each slot takes; after the rows that stay it does not matter.
            places = torch.where(count > slots, packed, torch.arange(slots))
            if self.plan.policy.mixers:
                keys, values = self._mixed(layer, (keys, values), ranks, count, chosen)
            else:
                keys, values = take(keys, places), take(values, places)
            if self.plan.policy.positions == "renumbered":
                by = (places - torch.arange(slots)).clamp(min=0)
                keys = turn_back(keys, by, *self.back)
            state = [] if planes is None else [planes.gather(2, places.expand(len(planes), -1, -1))]
        return *self.hold(layer, keys, values), *state

    def hold(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        """Rows [G, C, H] as the buffers of a layer have them, each [1, G, C, …]."""
        scales = self.scales[layer] if self.scales else None
        return keys_and_values(keys, values, scales, self.bits)

    def _choose(self, layer: int, ranks: Tensor, count: Tensor, keep: int) -> Tensor:
        """Rows of each head that stay, [G, keep], of ranks [G, S]."""
        policy = self.plan.policy
        return choose(ranks, count, keep, policy.sinks, self.plan.recent(layer))

    def _mixed(
        self, layer: int, rows: tuple[Tensor, Tensor], ranks: Tensor, count: Tensor, chosen: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Keys and values [G, C, H] of a prompt that fits, or of rows with others mixed in."""
        mixer, slots = self.plan.policy.mixers[layer], self.plan.slots[layer]
        heavy = self._choose(layer, ranks, count, chosen.shape[1] - mixer.slots)
        mixed = mix_rows(mixer, self.plain(layer, *rows), count, chosen, heavy)
        fresh = (nn.functional.pad(r, (0, 0, 0, slots - r.shape[1])) for r in mixed)
        pairs = zip(self.even(layer, *fresh), rows, strict=True)
        keys, values = (torch.where(count > slots, new, old[:, :slots]) for new, old in pairs)
        return keys, values


def keys_and_values(
    keys: Tensor, values: Tensor, scales: tuple[Tensor, Tensor] | None, bits: int
) -> tuple[Tensor, Tensor]:
    """Rows [G, n, H] as the cache holds them, [1, G, n, H]."""
    if scales is None:
        return keys[None], values[None]
    key_scale, value_scale = scales
    return store(keys, key_scale[0], bits)[None], store(values, value_scale[0], bits)[None]


def attend_prompt(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    last: Tensor,
    cos: Tensor,
    sin: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Causal attention of a prompt without a cache, as one operator.

    Args:
        query, key, value: [1, heads or G, S, H], not rotated yet.
        last: int32 [1], true rows minus one.
        cos, sin: rotary tables [positions, H / 2].

    Returns:
        Rows [1, S, heads * H], rotated keys and values [1, G, S, H].
    """
    inputs = [merge_heads(part) for part in (query, key, value)]
    seen = torch.tensor([query.shape[2]], dtype=torch.int32)
    rows, keys, values = torch.onnx.ops.symbolic_multi_out(
        f"{CONTRIB}::GroupQueryAttention",
        [*inputs, None, None, last, seen, cos, sin],
        attrs={
            "num_heads": query.shape[1],
            "kv_num_heads": key.shape[1],
            "scale": float(scaling),
            "do_rotary": 1,
        },
        dtypes=[query.dtype] * 3,
        shapes=[inputs[0].shape, key.shape, value.shape],
        version=1,
    )
    return rows, keys, values
