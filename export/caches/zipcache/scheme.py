"""The scheme of ZipCache."""

from __future__ import annotations

from dataclasses import dataclass

from edgetok.export.caches.ring_parity import check_ring
from edgetok.export.caches.ring_scheme import RingCache, require_ring_fits
from edgetok.export.caches.zipcache.graphs import ZipDecode, ZipFlush, ZipPrefill
from edgetok.export.caches.zipcache.reference import ZipReference
from edgetok.export.parity.ledger import Ledger
from edgetok.export.parity.prompt import Prompt
from edgetok.export.parity.sessions import GraphRunner
from edgetok.export.reference.model import Reference
from edgetok.families.parts import Parts, TextParts
from edgetok.kv.stores import zipcache
from edgetok.kv.stores.zipcache import ZipShape
from edgetok.ladder import Ladder
from edgetok.methods import Method


@dataclass(frozen=True)
class ZipCache(RingCache):
    """Two tiers of few bits, and the ring."""

    kv: str
    shape: ZipShape

    stages = (ZipPrefill, ZipDecode, ZipFlush)
    rounds = "rows"

    def reference(self, parts: Parts, method: Method) -> Reference:
        return ZipReference(parts, method, self.shape.ring)

    def check(self, ledger: Ledger, held: Reference, sessions: GraphRunner, prompt: Prompt) -> bool:
        if not isinstance(held, ZipReference):
            raise TypeError(f"{type(held).__name__} has no tiers")
        shape = self.shape
        check_ring(ledger, held.begin_rows(), sessions, prompt, shape.slots, shape.layers)
        return True


def fit_zipcache(kv: str, ladder: Ladder, text: TextParts, channels: int | None = None) -> ZipCache:
    """As long as the largest rung needs.

    Raises:
        UsageError: if it would be shorter than the ring, or heads fill no whole bytes.
    """
    slots = ladder.largest.cache_slots
    require_ring_fits(kv, slots, text.head_dim, min(zipcache.BITS.values()))
    sizes = len(text.layers), text.kv_heads, text.head_dim, slots
    return ZipCache(kv, ZipShape(*sizes, ladder.largest.prefill_tokens))
