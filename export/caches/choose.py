"""What is asked of prefill and of the KV cache, checked before any work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from edgetok.errors import InputError, UsageError
from edgetok.export.attention import Scales, require_plain_attention
from edgetok.export.caches.evicting.scheme import EvictingCache
from edgetok.export.caches.fp16.scheme import fit_fp16
from edgetok.export.caches.kivi.scheme import fit_kivi
from edgetok.export.caches.plain.scheme import PlainCache
from edgetok.export.caches.ring_scheme import RingCache
from edgetok.export.caches.scheme import CacheScheme
from edgetok.export.caches.think.scheme import fit_think
from edgetok.export.caches.tidaldecode.options import find_reading, require_reading_alone
from edgetok.export.caches.tidaldecode.scheme import TidalCache
from edgetok.export.caches.zipcache.scheme import fit_zipcache
from edgetok.export.learned_weights import with_exit_weights, with_kv_weights
from edgetok.export.options import KV_BITS, CacheOptions
from edgetok.families.parts import Parts, TextParts
from edgetok.kv import (
    AT_PREFILL,
    NONE,
    EvictionPlan,
    Policy,
    Reading,
    find_policy,
    make_reads,
    plan_eviction,
)
from edgetok.kv.mixing import require_mixers_fit
from edgetok.kv.stores import kivi, think, zipcache
from edgetok.ladder import Ladder
from edgetok.prefill import Prefill, find_prefill

# Caches with stores of their own, by name: from it, the ladder, the decoder and `kv_channels`.
STORES: dict[str, Callable[..., RingCache]] = {
    "fp16": fit_fp16,
    **dict.fromkeys(kivi.BITS, fit_kivi),
    zipcache.NAME: fit_zipcache,
    think.NAME: fit_think,
}
NAMES = ("fp32", *KV_BITS, *STORES)
# From an eager model over so many bits: scales of each layer's keys and values.
Measure = Callable[[int], Scales]


@dataclass(frozen=True)
class CacheChoice:
    """What takes rows away, and what a step reads of those that stay; at most one of the three.

    Args:
        kv: how rows are stored.
        policy: what a full layer keeps, with `slots` rows per layer.
        reading: what a step reads, `reads` rows.
        reduction: what prefill takes away, and of some methods what the cache keeps of it.
        channels: that pruned keys keep.
    """

    kv: str
    policy: Policy | None
    slots: int | None
    reading: Reading | None
    reads: int | None
    reduction: Prefill | None
    channels: int | None

    @property
    def is_measured(self) -> bool:
        """Whether its scales come from samples."""
        return self.kv in KV_BITS

    @property
    def one_length(self) -> str:
        """What allows of one prefill graph per rung only, which depends on its length; or ""."""
        if self.reduction is not None:
            return f"--prefill {self.reduction.name}"
        if self.policy is not None:
            return f"--kv-policy {self.policy.name}"
        return f"--kv {self.kv}" if self.kv in (zipcache.NAME, think.NAME) else ""

    def require_decoder(self, text: TextParts, flavour: str) -> None:
        """Refuse a decoder whose attention is more than what is asked for can lower.

        Raises:
            UsageError: naming what asks for plain attention, and the way out.
            InputError: for learned weights of another model.
        """
        if self.reduction is not None:
            _require_reducible(text, self.reduction)
        if self.policy is not None:
            require_plain_attention(text, "a KV policy", "use --kv-policy none")
        if self.reading is not None:
            require_plain_attention(text, self.reading.name, "use --kv-policy none")
        if self.kv in STORES:
            require_plain_attention(text, f"a {self.kv} cache", "use --kv int8")
        if self.kv == "int4":
            require_plain_attention(text, "the check of an int4 KV cache", "use --kv int8")
        if flavour != "ort":
            # What both flavours lower:
            plain = replace(
                text,
                bidirectional="nothing",
                mrope_axes=(),
                layers=text.attending,
                convolutions=(),
                rotary_dim=text.head_dim,
                rotary_kinds=(),
            )
            require_plain_attention(plain, f"the {flavour} flavour", "use --flavour ort")

    def plan(self, ladder: Ladder, text: TextParts) -> EvictionPlan | None:
        """Which rows a policy keeps in this decoder; None without one.

        Raises:
            UsageError: for slots that are too few or too many.
        """
        if self.policy is None:
            return None
        wanted = ladder.largest.cache_slots if self.slots is None else self.slots
        sizes = len(text.layers), text.max_positions, ladder.largest.prefill_tokens
        plan = plan_eviction(self.policy, wanted, *sizes)
        if self.policy.mixers:
            kept = self.policy.mixers, plan.keep, self.policy.window
            require_mixers_fit(*kept, text.head_dim)
        return plan

    def fit(self, parts: Parts, ladder: Ladder, seed: int, measure: Measure) -> CacheScheme:
        """The cache in this model.

        Raises:
            UsageError: if the ladder or the decoder is too small for it.
        """
        text, longest = parts.text, ladder.largest.cache_slots
        if self.kv in STORES:
            return STORES[self.kv](self.kv, ladder, text, self.channels)
        plan, reads = self.plan(ladder, text), None
        if self.reading is not None:
            reads = make_reads(self.reading, self.reads, longest, len(text.layers))
        bits = KV_BITS.get(self.kv)
        scales = None if bits is None else measure(bits)
        if plan is not None:
            return EvictingCache(self.kv, plan, scales, bits or 8, seed)
        if reads is not None:
            return TidalCache(self.kv, longest, scales, reads=reads)
        return PlainCache(self.kv, longest, scales, self.reduction)


def choose_cache(asked: CacheOptions) -> CacheChoice:
    """What options mean together.

    Raises:
        UsageError: naming options that are unknown or exclude each other, and the way out.
        InputError: for weights that cannot be read.
    """
    kv, slots, reads = asked.kv, asked.kv_slots, asked.kv_reads
    reading, reduction = find_reading(asked.kv_policy), find_prefill(asked.prefill)
    named = NONE if isinstance(asked.kv_policy, Reading) or reading else asked.kv_policy
    found, reduction = _find_cache(named, slots, reduction)
    require_reading_alone(reading, reads, slots, kv, reduction)
    found = with_kv_weights(found, asked.kv_weights)
    reduction = with_exit_weights(reduction, asked.exit_weights)
    _require_policy(found, slots)
    _require_one_of(reduction, found)
    _require_store_alone(kv, reduction, found)
    if asked.kv_channels is not None and kv != think.NAME:
        raise UsageError(
            f"{asked.kv_channels} channels of keys need a cache that prunes them; add --kv "
            f"{think.NAME} or leave --kv-channels out"
        )
    return CacheChoice(kv, found, slots, reading, reads, reduction, asked.kv_channels)


def _find_cache(
    name: str | Policy, slots: int | None, reduction: Prefill | None
) -> tuple[Policy | None, Prefill | None]:
    """What the cache keeps, and what prefill takes away: of some methods both are one thing."""
    if isinstance(name, Policy) or name not in AT_PREFILL:
        return find_policy(name), reduction
    if reduction is None:
        raise UsageError(f"--kv-policy {name} keeps what --prefill {name} leaves; give both")
    if slots is not None:
        raise UsageError(f"a {name} cache is as long as --prefill leaves it; drop --kv-slots")
    return None, reduction.with_cache(name)


def _require_policy(policy: Policy | None, slots: int | None) -> None:
    if policy is None and slots is not None:
        raise UsageError(
            f"{slots} KV slots need a policy that says which rows stay; choose one (--kv-policy), "
            "or lower --new-tokens for a shorter cache"
        )
    if policy is not None and slots is not None:
        plan_eviction(policy, slots, 1 if policy.capacities is None else 2)  # too few for any model


def _require_one_of(reduction: Prefill | None, policy: Policy | None) -> None:
    if reduction is not None and policy is not None:
        raise UsageError(
            f"{reduction.name} takes rows away at prefill and {policy.name} packs what prefill "
            "leaves; edgetok cannot do both in one bundle yet: use --prefill or --kv-policy"
        )


def _require_reducible(text: TextParts, reduction: Prefill) -> None:
    reduction.counts(len(text.layers), 1)  # says what is wrong with its depth
    reduction.exits(len(text.layers))
    if reduction.method.width not in (0, text.hidden):
        raise InputError(
            f"the exit weights are for rows of {reduction.method.width} numbers, and this "
            f"decoder has {text.hidden}; they belong to another model"
        )
    require_plain_attention(text, "reduction at prefill", "leave --prefill out")


def _require_store_alone(kv: str, reduction: Prefill | None, policy: Policy | None) -> None:
    """Refuse what a cache with a store of its own cannot be combined with."""
    if kv not in STORES:
        return
    if policy is not None:
        packs = kv in (*kivi.BITS, zipcache.NAME)
        how = "packs rows in groups" if packs else "holds each row in its place"
        raise UsageError(
            f"a {kv} cache {how} and {policy.name} takes single rows out of them; "
            "use --kv-policy none or --kv int4"
        )
    if reduction is not None:
        raise UsageError(
            f"a {kv} cache fills all layers alike and {reduction.name} takes rows away between "
            "them; leave --prefill out or use --kv int4"
        )
