"""The list of policies, their room in a model, and what is refused."""

from __future__ import annotations

import pytest

from edgetok import limits
from edgetok.errors import UsageError
from edgetok.kv import AT_PREFILL, POLICIES, find_policy, plan_eviction
from edgetok.kv.policies.pyramidkv import fall
from edgetok.prefill import PREFILL_METHODS


def test_names_are_those_of_the_list() -> None:
    assert all(name == policy.name for name, policy in POLICIES.items())
    assert find_policy("none") is None
    assert find_policy("h2o") is find_policy(POLICIES["h2o"]) is POLICIES["h2o"]


def test_policies_at_prefill_are_those_of_methods() -> None:
    held = {name: method.held.name for name, method in PREFILL_METHODS.items()}
    assert {name for name, cache in held.items() if cache != "none"} == set(AT_PREFILL)
    assert not set(AT_PREFILL) & set(POLICIES)
    assert all(held[name] == name == policy.name for name, policy in AT_PREFILL.items())


def test_an_unknown_policy_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'fifo' is unknown; choose none, streaming, .*random"):
        find_policy("fifo")


def test_pyramid_falls_in_equal_steps_as_published() -> None:
    """C 256, w 32, 32 layers: c_min 11, c_max 437, steps of 13."""
    capacities = fall(256, 32, 32, 4096)
    assert capacities[0] == 437 + 32 and capacities[1] == capacities[0] - 13
    assert capacities[-1] == 437 - 31 * 13 + 32


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("layers", [1, 2, 30])
def test_the_way_out_of_too_few_slots_works(name: str, layers: int) -> None:
    policy = POLICIES[name]
    with pytest.raises(UsageError, match="raise --kv-slots to") as refused:
        plan_eviction(policy, 2, layers)
    enough = int(str(refused.value).split(" to ")[-1].split()[0])
    room = plan_eviction(policy, enough, layers)
    assert all(keep < slots for keep, slots in zip(room.keep, room.slots, strict=True))
    always = policy.sinks + policy.window
    assert all(keep > always for keep in room.keep)
    with pytest.raises(UsageError, match=f"raise --kv-slots to {enough}"):
        plan_eviction(policy, enough - 1, layers)


def test_slots_beyond_the_positions_are_refused() -> None:
    with pytest.raises(UsageError, match="300 KV slots are more than the 256 positions"):
        plan_eviction(POLICIES["h2o"], 300, 2, 256)
    with pytest.raises(UsageError, match="lower --kv-slots"):
        plan_eviction(POLICIES["h2o"], limits.CACHE_SLOTS + 1, 2)


def test_no_layer_gets_more_slots_than_there_are_positions() -> None:
    assert max(plan_eviction(POLICIES["pyramidkv"], 200, 4, 256).slots) == 256
