"""Rows that the host writes into a cache: inside of it or not at all, whatever graphs say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetok.errors import BundleError
from edgetok.runtimes.runtime.cache import CacheRows
from edgetok.runtimes.runtime.host_actions import Compaction, Groups, Tiers, write_rows

RING, SLOTS, HIGH, LOW = 8, 40, 30, 20


class Memory:
    """A tensor in host memory."""

    def __init__(self, shape: tuple[int, ...], dtype: str = "float32", fill: float = 0) -> None:
        self.host = np.full(shape, fill, dtype)

    def push(self) -> None: ...

    def pull(self) -> np.ndarray:
        return self.host

    def write(self, array: np.ndarray) -> None:
        self.host[...] = array


class Made:
    """A graph that has made these rows, all of them 1."""

    file = "flush.onnx"

    def __init__(self, **rows: int) -> None:
        self.inputs: dict[str, Memory] = {}
        self.outputs = {name: Memory((1, 2, n, 4), fill=1) for name, n in rows.items()}
        self.runs = 0

    def run(self) -> None:
        self.runs += 1


def rows_of(kv: Any, held: int) -> CacheRows:
    rows = CacheRows(kv, 1000)
    rows.begin(held, [0] * kv.layers)
    return rows


def tiers(schemes, filled: list[int]) -> tuple[Tiers, dict[str, Memory], Made]:
    kv = schemes.cache((SLOTS,), ring=RING, filing="tiers")
    cache = {"past_filled_0": Memory((2,), "int32")}
    cache["past_filled_0"].write(np.array(filled))
    for tier, rows in (("high", HIGH), ("low", LOW)):
        for side in ("key", "value"):
            cache[f"past_{tier}_{side}_0"] = Memory((1, 2, rows, 4))
    made = {"high_key": 5, "high_value": 5, "low_key": 3, "low_value": 3}
    graph = Made(**{f"flushed_{kind}_0": rows for kind, rows in made.items()})
    return Tiers(kv, graph, cache), cache, graph


def written(buffer: Memory) -> list[int]:
    return np.flatnonzero(buffer.host[0, 0, :, 0]).tolist()


def test_a_full_ring_goes_behind_what_tiers_hold(schemes) -> None:
    room, cache, graph = tiers(schemes, [7, 4])
    room.make_room(rows_of(room.kv, 18))  # one row of the ring is free
    assert graph.runs == 0
    room.make_room(rows_of(room.kv, 19))
    assert graph.runs == 1
    assert written(cache["past_high_key_0"]) == [7, 8, 9, 10, 11]
    assert written(cache["past_low_value_0"]) == [4, 5, 6]
    assert cache["past_filled_0"].host.tolist() == [12, 7]


@settings(max_examples=200, deadline=None)
@given(
    filled=st.tuples(*[st.integers(-10, 50) | st.integers(-(2**31), 2**31 - 1)] * 2),
    held=st.integers(0, SLOTS),
)
def test_counts_are_inside_of_tiers_or_nothing_is_written(schemes, filled, held) -> None:
    room, cache, _ = tiers(schemes, list(filled))
    full = held - sum(filled) == RING
    fits = 0 <= filled[0] <= HIGH - 5 and 0 <= filled[1] <= LOW - 3
    if full and fits:
        room.make_room(rows_of(room.kv, held))
        assert written(cache["past_high_key_0"]) == list(range(filled[0], filled[0] + 5))
        return
    if full or not 0 <= held - sum(filled) <= RING:
        with pytest.raises(BundleError, match="export again"):
            room.make_room(rows_of(room.kv, held))
    else:
        room.make_room(rows_of(room.kv, held))
    assert cache["past_filled_0"].host.tolist() == list(filled)


def test_groups_go_one_behind_another(schemes) -> None:
    kv = schemes.cache((SLOTS,), ring=RING, filing="groups")
    cache = {"past_key_0": Memory((1, 2, 16, 4)), "past_key_least_0": Memory((1, 2, 2, 4))}
    graph = Made(flushed_key_0=8, flushed_key_least_0=1)
    room = Groups(kv, graph, cache)
    for held in (0, 5, 9, 15):
        room.make_room(rows_of(kv, held))
    assert graph.runs == 0
    room.make_room(rows_of(kv, 16))
    assert written(cache["past_key_0"]) == list(range(8, 16))
    assert written(cache["past_key_least_0"]) == [1]
    with pytest.raises(BundleError, match="past_key_0 has 16 rows, and 8 do not fit there from ro"):
        room.make_room(rows_of(kv, 24))


def test_rows_that_stay_are_the_first_ones(schemes) -> None:
    kv = schemes.cache((SLOTS, SLOTS), keep=[3, 50])
    cache = {f"past_key_{layer}": Memory((1, 2, SLOTS, 4)) for layer in (0, 1)}
    room = Compaction({0: Made(kept_key=3)}, cache)
    rows = rows_of(kv, SLOTS)
    room.make_room(rows)
    assert written(cache["past_key_0"]) == [0, 1, 2]
    assert rows.lengths.tolist() == [3, SLOTS]
    with pytest.raises(BundleError, match="past_key_1 has 40 rows, and 50 do not fit"):
        Compaction({1: Made(kept_key=50)}, cache).make_room(rows_of(kv, SLOTS))


@settings(max_examples=100, deadline=None)
@given(start=st.integers(), rows=st.integers(0, 12))
def test_rows_are_written_inside_or_not_at_all(start: int, rows: int) -> None:
    source, target = Memory((1, 2, rows, 4), fill=1), Memory((1, 2, 10, 4))
    if 0 <= start <= 10 - rows:
        write_rows(source, target, start, "past_key_0")
        assert written(target) == list(range(start, start + rows))
        return
    with pytest.raises(BundleError, match="do not fit there"):
        write_rows(source, target, start, "past_key_0")
    assert written(target) == []
