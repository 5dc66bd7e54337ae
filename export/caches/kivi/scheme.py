"""The scheme of KIVI caches: `kivi` with 2 bits, `kivi4` with 4."""

from __future__ import annotations

from dataclasses import dataclass

from edgetok.export.caches.kivi.graphs import KiviDecode, KiviFlush, KiviPrefill
from edgetok.export.caches.kivi.parity import compare_rows
from edgetok.export.caches.kivi.reference import KiviReference
from edgetok.export.caches.ring_parity import check_ring
from edgetok.export.caches.ring_scheme import RingCache, require_ring_fits
from edgetok.export.parity.ledger import Ledger
from edgetok.export.parity.prompt import Prompt
from edgetok.export.parity.sessions import GraphRunner
from edgetok.export.reference.model import Reference
from edgetok.families.parts import Parts, TextParts
from edgetok.kv.stores import kivi
from edgetok.kv.stores.kivi import KiviShape
from edgetok.ladder import Ladder
from edgetok.methods import Method


@dataclass(frozen=True)
class KiviCache(RingCache):
    """Full groups in few bits, and the ring."""

    kv: str
    shape: KiviShape

    stages = (KiviPrefill, KiviDecode, KiviFlush)
    rounds = "rows"

    def reference(self, parts: Parts, method: Method) -> Reference:
        return KiviReference(parts, method, self.shape.ring, self.shape.bits)

    def check(self, ledger: Ledger, held: Reference, sessions: GraphRunner, prompt: Prompt) -> bool:
        if not isinstance(held, KiviReference):
            raise TypeError(f"{type(held).__name__} rounds no groups")
        rows, layers = held.begin_rows(), self.shape.layers
        check_ring(ledger, rows, sessions, prompt, self.shape.slots, layers)
        for layer in range(layers):
            compare_rows(ledger, sessions, rows.cache, layer, prompt.budget)
        return True


def fit_kivi(kv: str, ladder: Ladder, text: TextParts, channels: int | None = None) -> KiviCache:
    """As long as the largest rung needs.

    Raises:
        UsageError: if it would be shorter than a group, or heads fill no whole bytes.
    """
    bits, slots = kivi.BITS[kv], ladder.largest.cache_slots
    require_ring_fits(kv, slots, text.head_dim, bits)
    sizes = len(text.layers), text.kv_heads, text.head_dim, slots
    return KiviCache(kv, KiviShape(*sizes, kivi.RING_ROWS, bits))
