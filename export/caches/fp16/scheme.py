"""The scheme of float16 caches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgetok import names
from edgetok.export.caches.fp16.graphs import Fp16Decode, Fp16Prefill, Fp16Shape
from edgetok.export.caches.fp16.reference import HalfRounding
from edgetok.export.caches.ring_scheme import RingCache
from edgetok.export.parity.cache import Stored, check_cache
from edgetok.export.parity.ledger import Ledger
from edgetok.export.parity.prompt import Prompt
from edgetok.export.parity.sessions import Array, GraphRunner
from edgetok.export.reference.cache import CacheReference
from edgetok.export.reference.model import Reference
from edgetok.export.reference.rows import Rounding
from edgetok.families.parts import Parts, TextParts
from edgetok.kv import keep_all
from edgetok.ladder import Ladder
from edgetok.methods import Method


@dataclass(frozen=True)
class Fp16Cache(RingCache):
    """Every row in its place, in float16."""

    kv: str
    shape: Fp16Shape

    stages = (Fp16Prefill, Fp16Decode, None)
    rounds = "rows"

    def reference(self, parts: Parts, method: Method) -> Reference:
        everything = keep_all(self.shape.slots, self.shape.layers)
        return Reference(parts, method, CacheReference(parts.text, everything))

    def check(self, ledger: Ledger, held: Reference, sessions: GraphRunner, prompt: Prompt) -> bool:
        if held.cache is None:
            raise TypeError("a float16 cache without its reference")
        check_cache(ledger, held.cache, sessions, prompt, HalfRows(None, 16, False))
        return True


class HalfRows(Stored):
    """How the graphs store rows."""

    def rounding(self) -> Rounding:
        return HalfRounding([], self.bits)

    def read_keys(self, sessions: GraphRunner, layer: int) -> Array:
        keys: Array = sessions.buffer(names.past_key(layer))[0].astype(np.float32)
        return keys


def fit_fp16(kv: str, ladder: Ladder, text: TextParts, channels: int | None = None) -> Fp16Cache:
    """As long as the largest rung needs."""
    slots = ladder.largest.cache_slots
    return Fp16Cache(kv, Fp16Shape(len(text.layers), text.kv_heads, text.head_dim, slots))
