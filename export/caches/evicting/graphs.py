"""The stages of a cache of constant size: prefill that packs, decode that scores, compaction."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgetok import names
from edgetok.export.attention import StageModule
from edgetok.export.stages.decoder import Decoder, DecoderContext
from edgetok.families.parts import TextParts
from edgetok.kv import EvictionPlan
from edgetok.kv.mixing import mix_rows
from edgetok.kv.policy import TEXT
from edgetok.kv.saliency import next_state
from edgetok.kv.select import choose, rank, rotate_back, take
from edgetok.kv.stored import pack, round_levels, store, unpack
from edgetok.kv.stores.slots import build_equaliser, dequantize_rows, quantize_rows

DRAWS = 4096  # random numbers of a head; the next row starts over


class EvictingDecoder(Decoder):
    """A decoder whose layers hold what a policy keeps, and what it remembers of each row."""

    draws: Tensor | None

    def __init__(self, context: DecoderContext, plan: EvictionPlan, bits: int, seed: int) -> None:
        super().__init__(context)
        self.plan, self.bits = plan, bits
        draws = draw_numbers(self.text, seed) if plan.policy.drawn else None
        self.register_buffer("draws", draws)

    @property
    def state(self) -> dict[str, Tensor]:
        """What is remembered of the rows of each layer, by name."""
        heads, layers = self.text.kv_heads, enumerate(self.plan.slots)
        if not self.remembered:
            return {}
        shapes = {
            names.past_state(layer): (self.remembered, heads, slots) for layer, slots in layers
        }
        return {name: torch.zeros(shape) for name, shape in shapes.items()}

    @property
    def remembered(self) -> int:
        """Numbers that are remembered of each row."""
        return len(self.plan.policy.row_state)

    @property
    def outputs(self) -> list[str]:
        return [names.LOGITS, *map(names.present_of, self.past)]

    @property
    def past(self) -> dict[str, Tensor]:
        """Buffers layer by layer: the cache's and, where anything is remembered, the state."""
        past = self.context.past() | self.state
        layers = range(len(self.plan.slots))
        return {n: past[n] for layer in layers for n in past if n.endswith(f"_{layer}")}


class EvictingPrefill(EvictingDecoder):
    """input embeddings [1, S, D], padded on the right -> logits [1, W] and the packed cache.

    Args:
        packing: lowers attention and packing to one flavour.
        rows: S.
        text_rows: rows of text that a prompt has room for.
    """

    back_cos: Tensor
    back_sin: Tensor

    def __init__(self, *args: Any, packing: Any, rows: int, text_rows: int) -> None:
        super().__init__(*args)
        self.packing, self.rows, self.text_rows = packing, rows, text_rows
        back_cos, back_sin = rotation_tables(self.text, self._rotary()[0][0].shape[0])
        self.register_buffer("back_cos", back_cos)
        self.register_buffer("back_sin", back_sin)

    @property
    def inputs(self) -> dict[str, Tensor]:
        start = {names.VISUAL_START: torch.zeros(1, dtype=torch.int64)}
        return self.context.prompt(self.rows) | (start if self.reads_places else {})

    @property
    def reads_places(self) -> bool:
        """Whether the policy must know which rows are visual."""
        return TEXT in self.plan.policy.row_state

    def forward(self, embeds: Tensor, last: Tensor, lengths: Tensor, *start: Tensor) -> Any:
        attention = self.packing(
            self.plan,
            lengths,
            *self._rotary()[0],
            self._scales(),
            self.bits,
            start[0] if start else None,
            self.text_rows,
            self.draws,
            (self.back_cos, self.back_sin),
        )
        rows = self.attend(embeds, attention)
        held = [buffer for buffers in attention.present for buffer in buffers]
        return self.read_logits(rows[0].index_select(0, last)), *held


class EvictingDecode(EvictingDecoder):
    """One token id [1, 1] -> logits [1, W], and what it gave to the rows it attended to."""

    @property
    def inputs(self) -> dict[str, Tensor]:
        return self.context.step() | self.past

    def forward(self, token: Tensor, lengths: Tensor, positions: Tensor, *past: Tensor) -> Any:
        held_by_cache = len(self.lowering.buffers)
        size = held_by_cache + bool(self.remembered)
        layers = [past[first : first + size] for first in range(0, len(past), size)]
        attention = self.lowering.attention(
            [buffers[:held_by_cache] for buffers in layers],
            *(lengths, positions, self._rotary(), self._scales()),
        )
        attention.weighed = [] if self._reads_attention else None
        rows = self.attend(self.text.embed(token), attention)
        held: list[Tensor] = []
        for layer, buffers in enumerate(layers):
            held += attention.present[layer]
            if self.remembered:
                given = self._given(layer, attention, positions[layer])
                held.append(next_state(self.plan.policy, buffers[-1], given, lengths[layer]))
        return self.read_logits(rows[0]), *held

    @property
    def _reads_attention(self) -> bool:
        return self.plan.policy.decay is not None

    def _given(self, layer: int, attention: Any, position: Tensor) -> Tensor:
        """What the step adds to the scores of a layer: [G, C]."""
        groups, slots = self.text.kv_heads, self.plan.slots[layer]
        if self.draws is not None:
            return self.draws[layer].index_select(1, position % DRAWS).expand(groups, slots)
        if attention.weighed is None:
            return torch.zeros(groups, slots)
        weights: Tensor = attention.weighed[layer][0, :, 0]  # [heads, C]
        return weights.reshape(groups, -1, slots).mean(1)


class Compact(StageModule):
    """A full layer, key and value [1, G, C, H] and state [P, G, C], -> the rows that stay."""

    rows_kept: tuple[str, ...] = (names.KEPT_KEY, names.KEPT_VALUE)
    cos: Tensor
    sin: Tensor

    def __init__(self, decoder: EvictingDecoder, layer: int) -> None:
        super().__init__()
        context = decoder.context
        cos, sin = rotation_tables(context.text, context.positions)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)
        self.plan, self.layer = decoder.plan, layer
        self.bits = None if context.scales is None else decoder.bits
        self.scales = None if context.scales is None else context.scales[layer]
        self._past = {n: b for n, b in decoder.past.items() if n.endswith(f"_{layer}")}

    @property
    def inputs(self) -> dict[str, Tensor]:
        return self._past

    @property
    def outputs(self) -> list[str]:
        state = [names.KEPT_STATE] if self.plan.policy.row_state else []
        return [*self.rows_kept, *state]

    def forward(self, *held: Tensor) -> tuple[Tensor, ...]:
        count = len(self.rows_kept)
        buffers, state = held[:count], held[count:]
        policy, keep = self.plan.policy, self.plan.keep[self.layer]
        ranks = rank(policy, state[0]) if state else torch.zeros(buffers[0].shape[1:3])
        chosen = self._choose(ranks, keep)
        if policy.mixers:
            rows = self._mixed(buffers, ranks, chosen)
        else:
            rows = [take(buffer[0], chosen) for buffer in buffers]
        if self.plan.policy.positions == "renumbered":
            rows = self._renumbered(rows, chosen - torch.arange(chosen.shape[1]))
        kept = [part.gather(2, chosen.expand(len(part), -1, -1)) for part in state]
        return *(part[None] for part in rows), *kept

    def _choose(self, ranks: Tensor, keep: int) -> Tensor:
        """Rows of each head that stay, of a layer that is full: [G, C] -> [G, keep]."""
        full = torch.tensor(ranks.shape[1])
        return choose(ranks, full, keep, self.plan.policy.sinks, self.plan.recent(self.layer))

    def _mixed(self, buffers: tuple[Tensor, ...], ranks: Tensor, chosen: Tensor) -> list[Tensor]:
        """The rows that stay with others mixed in."""
        mixer = self.plan.policy.mixers[self.layer]
        heavy = self._choose(ranks, chosen.shape[1] - mixer.slots)
        full = torch.tensor(ranks.shape[1])
        return self.hold(*mix_rows(mixer, self.read(buffers), full, chosen, heavy))

    def read(self, buffers: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Keys and values, float32 [G, C, H]."""
        keys, values = (buffer[0] for buffer in buffers)
        if self.bits is None or self.scales is None:
            return keys, values
        of_keys, of_values = self.scales
        return unpack(keys, self.bits) * of_keys[0], unpack(values, self.bits) * of_values[0]

    def hold(self, keys: Tensor, values: Tensor) -> list[Tensor]:
        """The same as the cache has them, [G, keep, …] each."""
        if self.bits is None or self.scales is None:
            return [keys, values]
        of_keys, of_values = self.scales
        return [store(keys, of_keys[0], self.bits), store(values, of_values[0], self.bits)]

    def _renumbered(self, rows: list[Tensor], by: Tensor) -> list[Tensor]:
        """Keys at the places they move to.

        Both channels of a rotary pair have one scale, so that levels are rotated as they are.
        """
        keys, *others = rows
        if self.bits is None:
            return [rotate_back(keys, by, self.cos, self.sin), *others]
        rotated = rotate_back(unpack(keys, self.bits), by, self.cos, self.sin)
        return [pack(round_levels(rotated, self.bits), self.bits), *others]


class SlotCompact(Compact):
    """As `Compact`, with scales [1, G, C, 1] of keys and of values between values and state.

    Rows are `edgetok.kv.stores.slots`': what turns a row may change its largest channel, so turned
    keys are given new scales.
    """

    rows_kept = (names.KEPT_KEY, names.KEPT_VALUE, names.KEPT_KEY_SCALE, names.KEPT_VALUE_SCALE)

    def read(self, buffers: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        keys, values, key_scales, value_scales = buffers
        of_keys, of_values = self._equalisers()
        bits = self.bits or 8
        return (
            dequantize_rows(keys, key_scales, bits)[0] * of_keys,
            dequantize_rows(values, value_scales, bits)[0] * of_values,
        )

    def hold(self, keys: Tensor, values: Tensor) -> list[Tensor]:
        of_keys, of_values = self._equalisers()
        pairs = [
            quantize_rows(rows, self.bits or 8)
            for rows in (keys * (1 / of_keys), values * (1 / of_values))
        ]
        return [*(levels for levels, _ in pairs), *(scales for _, scales in pairs)]

    def _equalisers(self) -> tuple[Tensor, Tensor]:
        """Of keys and values, [G, 1, H]."""
        assert self.scales is not None  # noqa: S101  # or there would be no slots
        of_keys, of_values = self.scales
        return build_equaliser(of_keys)[0], build_equaliser(of_values)[0]

    def _renumbered(self, rows: list[Tensor], by: Tensor) -> list[Tensor]:
        (keys, values, key_scales, value_scales), bits = rows, self.bits or 8
        rotated = rotate_back(dequantize_rows(keys, key_scales, bits), by, self.cos, self.sin)
        keys, key_scales = quantize_rows(rotated, bits)
        return [keys, values, key_scales, value_scales]


def rotation_tables(text: TextParts, count: int) -> tuple[Tensor, Tensor]:
    """cos and sin of rotations by so many positions, [count, H / 2], as exact as float32 is.

    The model's own tables multiply in float32 and are off by a ten-thousandth of a radian at a
    few hundred positions; a row that is turned again and again would gather that up.
    """
    frequencies: Any = text.rotary.inv_freq
    angles = torch.outer(torch.arange(count).double(), frequencies.double())
    return angles.cos().float(), angles.sin().float()


def draw_numbers(text: TextParts, seed: int) -> Tensor:
    """Random numbers in (0, 1) for the rows of each layer and head: [L, G, DRAWS]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(len(text.layers), text.kv_heads, DRAWS, generator=generator)
