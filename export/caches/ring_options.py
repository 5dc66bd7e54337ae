"""KIVI, ZipCache and ThinK, whose last rows are in a ring: what an export must know of them."""

from __future__ import annotations

from edgetok.errors import UsageError
from edgetok.export.caches.evicting.reference import CacheReference
from edgetok.export.caches.kivi.reference import KiviReference
from edgetok.export.caches.ring import RingShape
from edgetok.export.caches.think.reference import PrunedReference
from edgetok.export.caches.zipcache.reference import ZipReference
from edgetok.export.reference.model import Reference
from edgetok.families.parts import Parts, TextParts
from edgetok.kv import Policy
from edgetok.kv.stores import kivi, think, zipcache
from edgetok.kv.stores.kivi import KiviShape
from edgetok.kv.stores.think import ThinkShape
from edgetok.kv.stores.zipcache import ZipShape
from edgetok.ladder import Ladder
from edgetok.methods import Method
from edgetok.prefill import Prefill

RINGED = (*kivi.BITS, zipcache.NAME, think.NAME)


def require_ring_alone(kv: str, reduction: Prefill | None, policy: Policy | None) -> None:
    """Refuse what a cache with a ring cannot be combined with.

    Raises:
        UsageError: naming both and the way out.
    """
    if kv not in RINGED:
        return
    if policy is not None:
        how = "holds each row in its place" if kv == think.NAME else "packs rows in groups"
        raise UsageError(
            f"a {kv} cache {how} and {policy.name} takes single rows out of them; "
            "use --kv-policy none or --kv int4"
        )
    if reduction is not None:
        raise UsageError(
            f"a {kv} cache fills all layers alike and {reduction.name} takes rows away between "
            "them; leave --prefill out or use --kv int4"
        )


def require_pruning(kv: str, channels: int | None) -> None:
    """Refuse a number of channels where no keys are pruned.

    Raises:
        UsageError: naming the number and the way out.
    """
    if channels is not None and kv != think.NAME:
        raise UsageError(
            f"{channels} channels of keys need a cache that prunes them; add --kv {think.NAME} or "
            "leave --kv-channels out"
        )
    if channels is not None and channels < 1:
        raise UsageError(f"{channels} channels of keys are none; give --kv-channels 1 or more")


def shape_ring(
    kv: str, ladder: Ladder, text: TextParts, channels: int | None = None
) -> RingShape | None:
    """Constants of a cache with a ring, as long as the largest rung needs; None for another one.

    Args:
        channels: that keys of a ThinK cache keep; three of five if None.

    Raises:
        UsageError: if it would be shorter than the ring, or heads fill no whole bytes.
    """
    if kv not in RINGED:
        return None
    if kv == think.NAME:
        return _shape_pruned(ladder, text, channels)
    slots, bits = ladder.largest.cache_slots, kivi.BITS.get(kv, 2)
    if slots < kivi.RING_ROWS:
        raise UsageError(
            f"a {kv} cache packs groups of {kivi.RING_ROWS} rows and the largest rung needs "
            f"{slots}; use --kv fp32, or raise --prompt-tokens or --new-tokens"
        )
    if text.head_dim * bits % 8:
        raise UsageError(
            f"heads of {text.head_dim} channels fill no whole bytes at {bits} bits; use --kv int8"
        )
    sizes = len(text.layers), text.kv_heads, text.head_dim, slots
    if kv == zipcache.NAME:
        return ZipShape(*sizes, ladder.largest.prefill_tokens)
    return KiviShape(*sizes, kivi.RING_ROWS, bits)


def _shape_pruned(ladder: Ladder, text: TextParts, channels: int | None) -> ThinkShape:
    slots, head_dim = ladder.largest.cache_slots, text.head_dim
    if slots <= think.RING_ROWS:
        raise UsageError(
            f"a think cache keeps the last {think.RING_ROWS} keys whole and the largest rung needs "
            f"{slots}; use --kv fp32, or raise --prompt-tokens or --new-tokens"
        )
    if channels is not None and channels > head_dim:
        raise UsageError(
            f"{channels} channels of keys are more than the {head_dim} that heads have; "
            "lower --kv-channels"
        )
    kept = think.count_channels(head_dim) if channels is None else channels
    return ThinkShape(len(text.layers), text.kv_heads, head_dim, slots, kept)


def make_reference(
    parts: Parts, method: Method, eager: CacheReference | None, grouped: RingShape | None
) -> Reference:
    """PyTorch over a cache that rounds rows as this one does, or over `eager`, or its own."""
    if isinstance(grouped, ThinkShape):
        return Reference(parts, method, PrunedReference(parts.text, grouped))
    if isinstance(grouped, ZipShape):
        return ZipReference(parts, method, grouped)
    if grouped is not None:
        return KiviReference(parts, method, grouped)
    return Reference(parts, method, eager)
