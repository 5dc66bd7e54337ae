"""What is asked of prefill and of the KV cache, checked before any work."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edgetok.errors import InputError, UsageError
from edgetok.export.caches.ring_options import RINGED, require_pruning, require_ring_alone
from edgetok.export.caches.tidaldecode.options import (
    find_reading,
    require_readable,
    require_reading_alone,
)
from edgetok.export.learned_weights import with_exit_weights, with_kv_weights
from edgetok.export.stages.prompt_reduced import require_plain_attention
from edgetok.families.parts import TextParts
from edgetok.kv import AT_PREFILL, NONE, Policy, Reading, find_policy, make_room
from edgetok.prefill import Prefill, find_prefill


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

    def require_decoder(self, text: TextParts, flavour: str) -> None:
        """Refuse a decoder whose attention is more than what is asked for can spell.

        Raises:
            UsageError: naming what asks for plain attention, and the way out.
            InputError: for learned weights of another model.
        """
        if self.reduction is not None:
            _require_reducible(text, self.reduction)
        if self.policy is not None:
            require_plain_attention(text, "a KV policy", "use --kv-policy none")
        require_readable(text, self.reading)
        if self.kv in RINGED:
            require_plain_attention(text, f"a {self.kv} cache", "use --kv int8")
        if self.kv == "int4":
            require_plain_attention(text, "the proof of an int4 KV cache", "use --kv int8")
        if flavour != "ort":
            # What both flavours spell out:
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


def choose_cache(
    *,
    kv: str,
    policy: str | Policy | Reading,
    prefill: str | Prefill | None,
    slots: int | None,
    reads: int | None,
    channels: int | None,
    kv_weights: str | Path | None,
    exit_weights: str | Path | None,
) -> CacheChoice:
    """What options mean together; arguments as of `export_model`.

    Raises:
        UsageError: naming options that are unknown or exclude each other, and the way out.
        InputError: for weights that cannot be read.
    """
    reading, reduction = find_reading(policy), find_prefill(prefill)
    named = NONE if isinstance(policy, Reading) or reading else policy
    found, reduction = _find_cache(named, slots, reduction)
    require_reading_alone(reading, reads, slots, kv, reduction)
    found = with_kv_weights(found, None if kv_weights is None else Path(kv_weights))
    reduction = with_exit_weights(reduction, None if exit_weights is None else Path(exit_weights))
    _require_policy(found, slots)
    _require_one_of(reduction, found)
    require_ring_alone(kv, reduction, found)
    require_pruning(kv, channels)
    return CacheChoice(kv, found, slots, reading, reads, reduction, channels)


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
        make_room(policy, slots, 1 if policy.capacities is None else 2)  # too few for any model


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
