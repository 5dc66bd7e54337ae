"""What a KV cache of constant size keeps: policies, composed from a few static functions.

The list and its facts load without torch; what a policy computes needs it.
"""

from __future__ import annotations

from edgetok.errors import UsageError
from edgetok.kv.policies import (
    a2sf,
    h2o,
    lococo,
    mustdrop,
    pyramidkv,
    random,
    snapkv,
    streaming,
    tidaldecode,
    visual,
    zipcache,
)
from edgetok.kv.policy import EvictionPlan, Policy, keep_all, plan_eviction
from edgetok.kv.reading import Reading, Reads, make_reads
from edgetok.kv.stores import kivi, think
from edgetok.kv.stores import zipcache as zipcache_store

__all__ = [
    "AT_PREFILL",
    "POLICIES",
    "READINGS",
    "STORES",
    "EvictionPlan",
    "Policy",
    "Reading",
    "Reads",
    "find_policy",
    "keep_all",
    "make_reads",
    "plan_eviction",
]

NONE = "none"  # no policy: every row stays, and the cache is as long as the longest answer

POLICIES: dict[str, Policy] = {
    policy.name: policy
    for policy in (
        streaming.POLICY,
        snapkv.POLICY,
        pyramidkv.POLICY,
        h2o.POLICY,
        a2sf.POLICY,
        zipcache.POLICY,
        lococo.POLICY,
        visual.POLICY,
        random.POLICY,
    )
}

# Of a method of the same name, which alone decides what the cache holds: `edgetok.prefill`.
AT_PREFILL: dict[str, Policy] = {mustdrop.POLICY.name: mustdrop.POLICY}
# Asked for by the same option: these take no row away, but read a part of them.
# Ways to hold rows that a paper describes; all that `--kv` takes: `edgetok.export.caches.choose`.
STORES = (kivi.STORE, zipcache_store.STORE, think.STORE)
READINGS: dict[str, Reading] = {tidaldecode.READING.name: tidaldecode.READING}


def find_policy(name: str | Policy) -> Policy | None:
    """The policy of that name, one that is given as itself, or None for `none`.

    Raises:
        UsageError: for an unknown name.
    """
    if isinstance(name, Policy):
        return name
    if name == NONE:
        return None
    if name not in POLICIES:
        known = ", ".join([NONE, *POLICIES, *READINGS, *AT_PREFILL])
        raise UsageError(f"KV policy {name!r} is unknown; choose {known} (--kv-policy)")
    return POLICIES[name]
