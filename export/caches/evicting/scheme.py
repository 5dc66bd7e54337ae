"""The scheme of caches of constant size: a policy says which rows stay where a layer is full."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from edgetok import names
from edgetok.export.attention import Scales, StageModule
from edgetok.export.caches.evicting.graphs import (
    Compact,
    EvictingDecode,
    EvictingDecoder,
    EvictingPrefill,
    SlotCompact,
    draw_numbers,
)
from edgetok.export.caches.scheme import CacheScheme, Decoding
from edgetok.export.graph import StageSpec
from edgetok.export.parity.cache import Stored, check_cache
from edgetok.export.parity.ledger import Ledger
from edgetok.export.parity.prompt import Prompt
from edgetok.export.parity.sessions import GraphRunner
from edgetok.export.reference.cache import CacheReference
from edgetok.export.reference.model import Reference
from edgetok.export.stages.decoder import DecoderContext
from edgetok.families.parts import Parts
from edgetok.kv import EvictionPlan
from edgetok.ladder import Ladder
from edgetok.methods import Method


@dataclass(frozen=True)
class EvictingCache(CacheScheme):
    """Rows that a policy gives up make room for others.

    Args:
        kv: `fp32`, `int8` or `int4`; the last two have scales.
        seed: of a policy that draws.
    """

    kv: str
    plan: EvictionPlan
    scales: Scales | None = None
    bits: int = 8
    seed: int = 0

    @property
    def rounds(self) -> Literal["nothing", "all"]:  # type: ignore[override]  # constant elsewhere
        return "nothing" if self.scales is None else "all"

    @property
    def policy(self) -> str:  # type: ignore[override]
        return self.plan.policy.name

    @property
    def positions(self) -> Literal["kept", "renumbered"]:  # type: ignore[override]
        return self.plan.policy.positions

    def slots(self, ladder: Ladder, layers: int) -> list[int]:
        return list(self.plan.slots)

    def context(self, decoding: Decoding) -> DecoderContext:
        """Tables of all positions: a cache that is full goes on."""
        text = decoding.parts.text
        lowering = decoding.lowering.decoder(self.kv)
        return DecoderContext(text, text.max_positions, self.plan.slots, lowering, self.scales)

    def prefill(self, decoding: Decoding, budget: int, rows: int) -> StageModule:
        return EvictingPrefill(
            *self._given(decoding),
            packing=decoding.lowering.packing(self.scales is not None),
            rows=rows,
            text_rows=decoding.prompt_tokens,
        )

    def decode(self, decoding: Decoding) -> StageModule:
        return EvictingDecode(*self._given(decoding))

    def later_stages(self, decoding: Decoding) -> list[StageSpec]:
        """A graph per layer that empties it."""
        decoder = EvictingDecoder(*self._given(decoding))
        in_slots = len(decoder.lowering.buffers) > 2
        kind = SlotCompact if in_slots else Compact
        return [
            StageSpec(names.COMPACT, None, partial(kind, decoder, layer), layer)
            for layer in range(len(self.plan.slots))
        ]

    def reference(self, parts: Parts, method: Method) -> Reference:
        draws = draw_numbers(parts.text, self.seed) if self.plan.policy.drawn else None
        return Reference(parts, method, CacheReference(parts.text, self.plan, draws))

    def check(self, ledger: Ledger, held: Reference, sessions: GraphRunner, prompt: Prompt) -> bool:
        if held.cache is None:
            raise TypeError("an evicting cache without its reference")
        in_slots = sessions.has_buffer(names.past_key_scale(0))
        stored = Stored(self.scales, self.bits, in_slots)
        for long in (False, True):
            check_cache(ledger, held.cache, sessions, prompt, stored, long=long)
        return True

    def _given(self, decoding: Decoding) -> tuple[DecoderContext, EvictionPlan, int, int]:
        return self.context(decoding), self.plan, self.bits, self.seed
