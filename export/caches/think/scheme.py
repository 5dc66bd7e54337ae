"""The scheme of ThinK caches."""

from __future__ import annotations

from dataclasses import dataclass

from edgetok.errors import UsageError
from edgetok.export.caches.ring_scheme import RingCache
from edgetok.export.caches.think.graphs import ThinkDecode, ThinkPrefill
from edgetok.export.caches.think.parity import check_pruned
from edgetok.export.caches.think.reference import ThinkReference
from edgetok.export.parity.ledger import Ledger
from edgetok.export.parity.prompt import Prompt
from edgetok.export.parity.sessions import GraphRunner
from edgetok.export.reference.model import Reference
from edgetok.families.parts import Parts, TextParts
from edgetok.kv.stores import think
from edgetok.kv.stores.think import ThinkShape
from edgetok.ladder import Ladder
from edgetok.methods import Method


@dataclass(frozen=True)
class ThinkCache(RingCache):
    """Older keys without some of their channels, whole values, and the last keys in the ring."""

    kv: str
    shape: ThinkShape

    stages = (ThinkPrefill, ThinkDecode, None)

    def reference(self, parts: Parts, method: Method) -> Reference:
        shape = self.shape
        cache = ThinkReference(parts.text, shape.slots, shape.ring, shape.channels)
        return Reference(parts, method, cache)

    def check(self, ledger: Ledger, held: Reference, sessions: GraphRunner, prompt: Prompt) -> bool:
        if not isinstance(held.cache, ThinkReference):
            raise TypeError(f"{type(held.cache).__name__} prunes no keys")
        check_pruned(ledger, held.cache, sessions, prompt)
        return True


def fit_think(kv: str, ladder: Ladder, text: TextParts, channels: int | None = None) -> ThinkCache:
    """As long as the largest rung needs; `channels` stay of each key, three of five if None.

    Raises:
        UsageError: if it would be shorter than the ring, or has fewer channels than are to stay.
    """
    slots, head_dim = ladder.largest.cache_slots, text.head_dim
    if slots <= think.RING_ROWS:
        raise UsageError(
            f"a {kv} cache keeps the last {think.RING_ROWS} keys whole and the largest rung needs "
            f"{slots}; use --kv fp32, or raise --prompt-tokens or --new-tokens"
        )
    if channels is not None and channels > head_dim:
        raise UsageError(
            f"{channels} channels of keys are more than the {head_dim} that heads have; "
            "lower --kv-channels"
        )
    kept = think.count_channels(head_dim) if channels is None else channels
    return ThinkCache(kv, ThinkShape(len(text.layers), text.kv_heads, head_dim, slots, kept))
