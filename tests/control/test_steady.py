"""Limits over time: simulated machines, their traces, and what must hold of every choice."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetok.control import BenchTable, Limit, Pace, Row, Steady
from edgetok.control.pace import is_comparable
from edgetok.control.trace import Entry, Tried, repeat
from edgetok.errors import UsageError
from edgetok.ladder import Ladder, build_ladder

BUDGETS = (16, 64, 128, 576)
LADDER = build_ladder(BUDGETS, 32, 16)
TIMES = {16: 80.0, 64: 90.0, 128: 100.0, 576: 200.0}


def table(times: dict[int, float]) -> BenchTable:
    rows = (Row(b, 0.9 * ms, ms, 5.0, 100.0) for b, ms in times.items())
    return BenchTable("a" * 64, "cpu", tuple(rows))


def steady(limit_ms: float, times: dict[int, float] = TIMES, dwell: int = 4) -> tuple[Steady, Pace]:
    pace = Pace(table(times))
    return Steady(Limit(pace.table, limit_ms, pace=pace), dwell), pace


def serve(
    policy: Steady, pace: Pace, slowdowns: Sequence[float], ladder: Ladder = LADDER
) -> list[Entry]:
    """Answer one question after another on a machine that is as slow as it is."""
    entries = []
    for slowdown in slowdowns:
        decision = policy.choose(ladder, {})
        budget = decision.rung.budget
        row = pace.table.row(budget)
        ttft = slowdown * (row.ttft_ms_p50 if row else 50.0)
        pace.note(budget, ttft)
        timings = {"tower": 1.0, "ttft": ttft}
        entries.append(
            Entry("a" * 64, {}, [], [Tried(budget, {})], decision.reason, timings, "one")
        )
    return entries


slow = st.lists(st.floats(0.2, 8.0), min_size=1, max_size=60)
swings = st.lists(st.sampled_from([1.0, 1.0, 2.6, 3.5]), min_size=5, max_size=40)
measured = st.just(TIMES) | st.dictionaries(st.sampled_from(BUDGETS), st.floats(1.0, 500.0))
some_ladders = st.sets(st.sampled_from(BUDGETS), min_size=1).map(
    lambda budgets: build_ladder(tuple(sorted(budgets)), 8, 8)
)


class Scripted(Pace):
    """A pace that is told instead of learned: it may swing from one question to the next."""

    now = 1.0

    def factor(self, budget: int) -> float:
        return self.now


@given(
    slow | swings,
    measured,
    st.just(250.0) | st.floats(10.0, 600.0),
    st.integers(1, 6),
    some_ladders,
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_every_choice_is_a_loaded_rung_within_the_limits_and_swings_are_bounded(
    slowdowns: list[float],
    times: dict[int, float],
    limit_ms: float,
    dwell: int,
    ladder: Ladder,
    told: bool,
) -> None:
    pace = (Scripted if told else Pace)(table(times))
    policy = Steady(Limit(pace.table, limit_ms, pace=pace), dwell)
    before, since = None, 0
    for slowdown in slowdowns:
        if isinstance(pace, Scripted):
            pace.now = slowdown
        expected = {b: ms * pace.factor(b) for b, ms in times.items()}
        held_is_within = before is not None and expected.get(before, math.inf) <= limit_ms
        budget = policy.choose(ladder, {}).rung.budget
        assert budget in ladder.budgets
        within = [b for b in ladder.budgets if expected.get(b, math.inf) <= limit_ms]
        assert budget in within if within else budget == ladder.smallest.budget
        if before is not None and budget > before and held_is_within:
            assert since >= dwell - 1  # questions since the last change of the rung
        since = since + 1 if budget == before else 0
        before = budget
        pace.note(budget, slowdown * 0.9 * times.get(budget, 50.0))


@given(slow, st.floats(10.0, 600.0), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_replay_is_the_live_decision(slowdowns: list[float], limit: float, dwell: int) -> None:
    policy, pace = steady(limit, dwell=dwell)
    entries = serve(policy, pace, slowdowns)
    found = repeat(lambda: steady(limit, dwell=dwell), LADDER, entries)
    assert all(r.same for r in found)


def test_sessions_that_share_a_trace_learn_apart() -> None:
    """One machine slows down, the other does not; their lines alternate."""
    lines = []
    for name, slowdown in (("one", 5.0), ("two", 1.0)):
        policy, pace = steady(150.0)
        own = serve(policy, pace, [slowdown] * 6)
        lines.append([Entry(e.bundle, {}, [], e.tried, "", e.timings_ms, name) for e in own])
    mixed = [entry for pair in zip(*lines, strict=True) for entry in pair]
    assert {e.tried[0].budget for e in mixed} == {16, 128}
    assert all(r.same for r in repeat(lambda: steady(150.0), LADDER, mixed))


def test_a_load_is_noticed_at_once_and_its_end_after_a_while() -> None:
    policy, pace = steady(250.0)
    entries = serve(policy, pace, [1.0] * 5 + [2.0] * 40 + [1.0] * 400)
    chosen = [entry.tried[0].budget for entry in entries]
    assert set(chosen[:5]) == {576}
    missed = [e.timings_ms["ttft"] > 250 for e in entries]
    assert sum(missed) <= 2 and chosen[10] == 128
    assert chosen[-1] == 576


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_few_answers_take_longer_than_expected_whatever_the_noise(seed: int) -> None:
    """Heavy tails on top of a machine that is twice as slow as measured."""
    import random

    draw = random.Random(seed)
    pace = Pace(table(TIMES))
    missed = 0
    for number in range(500):
        ttft = 2 * 90 * math.exp(0.15 * draw.gauss(0, 1)) * (1.4 if draw.random() < 0.02 else 1)
        missed += number > 5 and ttft > 100 * pace.factor(128)
        pace.note(128, ttft)
    assert missed <= 10


@given(st.lists(st.tuples(st.sampled_from([*BUDGETS, 7]), st.floats()), max_size=50))
@settings(deadline=None)
def test_a_factor_is_a_number_of_one_or_more_whatever_is_noted(
    noted: list[tuple[int, float]],
) -> None:
    pace = Pace(table(TIMES | {16: 0.0}))
    for budget, ttft_ms in noted:
        pace.note(budget, ttft_ms)
    assert all(1 <= pace.factor(budget) <= 64.01 for budget in (*BUDGETS, 7))


def test_the_reason_says_how_slow_it_is_and_that_a_rung_is_kept() -> None:
    policy, pace = steady(250.0)
    serve(policy, pace, [2.0] * 3)
    assert "times as slow now" in policy.limit.choose(LADDER, {}).reason
    quiet = Steady(Limit(table(TIMES), 1000.0), held=64)
    assert quiet.choose(LADDER, {}).reason == "64 is kept: a larger rung was allowed 1 of 8 times"


def test_energy_is_a_limit_where_it_was_measured() -> None:
    known = (Row(b, 1, 1, 1, 1, energy_j=b / 100) for b in (16, 64))
    rows = (*known, Row(128, 1, 1, 1, 1))
    policy = Limit(BenchTable("a" * 64, "cpu", rows), max_energy_j=0.7)
    assert policy.choose(LADDER, {}).rung.budget == 64  # what 128 takes is not known
    with pytest.raises(UsageError, match="--max-energy-j needs measured energy"):
        Limit(table(TIMES), max_energy_j=1.0)


def test_a_dwell_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="a dwell of 0"):
        Steady(Limit(table(TIMES), 100.0), 0)


@pytest.mark.parametrize(
    ("timings", "tried", "whole"),
    [
        ({"tower": 1.0, "ttft": 2.0}, 1, True),
        ({"ttft": 2.0}, 1, False),  # the image was encoded before
        ({"tower": 1.0, "ttft": 2.0}, 2, False),
    ],
)
def test_only_whole_answers_are_compared(
    timings: dict[str, float], tried: int, whole: bool
) -> None:
    assert is_comparable(timings, tried) == whole
