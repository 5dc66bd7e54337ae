"""Every policy answers with a rung of the ladder; limits hold wherever a rung can hold them."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetok import names
from edgetok.control import BenchTable, Elbow, Fixed, Largest, Limit, Policy, Row
from edgetok.errors import UsageError
from edgetok.ladder import Ladder, build_ladder

DIGEST = "a" * 64
LADDER = build_ladder((64, 128, 192, 576), 32, 16)
TABLE = BenchTable(
    DIGEST,
    "cpu",
    (
        Row(64, 90, 100, 6, 200),
        Row(128, 120, 140, 6, 210),
        Row(192, 150, 190, 6, 230),
        Row(576, 380, 420, 7, 300),
    ),
)

ladders = st.sets(st.integers(1, 1000), min_size=1, max_size=8).map(
    lambda budgets: build_ladder(tuple(sorted(budgets)), 8, 8)
)
measured = st.floats(0, 1e6)
limits = st.floats(0.001, 1e6)


@st.composite
def ladders_and_tables(draw: st.DrawFn) -> tuple[Ladder, BenchTable]:
    """Tables that miss rungs, know foreign ones, and need not grow with the budget."""
    ladder = draw(ladders)
    budgets = {b for b in ladder.budgets if draw(st.booleans())} | draw(st.sets(st.just(1001)))
    rows = (Row(b, *(draw(measured) for _ in range(4))) for b in sorted(budgets))
    return ladder, BenchTable(DIGEST, "cpu", tuple(rows))


def allows(row: Row | None, ttft_ms: float | None, memory_mib: float | None) -> bool:
    return (
        row is not None
        and (ttft_ms is None or row.ttft_ms_p95 <= ttft_ms)
        and (memory_mib is None or row.memory_mib <= memory_mib)
    )


@given(ladders_and_tables(), st.none() | limits, st.none() | limits)
@settings(deadline=None)
def test_a_limit_takes_the_largest_rung_within_it(
    given_: tuple[Ladder, BenchTable], ttft_ms: float | None, memory_mib: float | None
) -> None:
    if ttft_ms is None and memory_mib is None:
        ttft_ms = 100.0
    ladder, table = given_
    decision = Limit(table, ttft_ms, memory_mib).choose(ladder, {})
    possible = [b for b in ladder if allows(table.row(b.budget), ttft_ms, memory_mib)]
    assert decision.rung == (possible[-1] if possible else ladder.smallest)
    assert ("no rung is within" in decision.reason) == (not possible)


@given(ladders, st.dictionaries(st.just(names.SIGNAL_ELBOW), st.floats()))
@settings(deadline=None)
def test_an_elbow_takes_the_smallest_rung_that_holds_it(
    ladder: Ladder, signals: dict[str, float]
) -> None:
    rung = Elbow().choose(ladder, signals).rung
    assert rung in ladder.rungs
    wanted = signals.get(names.SIGNAL_ELBOW, math.nan)
    if not math.isfinite(wanted):
        assert rung == ladder.largest
        return
    assert rung.budget >= wanted or rung == ladder.largest
    assert all(smaller.budget < wanted for smaller in ladder if smaller.budget < rung.budget)


@given(ladders, st.data())
@settings(deadline=None)
def test_a_fixed_budget_is_taken_and_the_default_is_the_largest(
    ladder: Ladder, data: st.DataObject
) -> None:
    budget = data.draw(st.sampled_from(ladder.budgets))
    assert Fixed(budget).choose(ladder, {}).rung.budget == budget
    assert Largest().choose(ladder, {}).rung == ladder.largest


def test_a_budget_that_is_no_rung_is_refused_with_the_rungs() -> None:
    with pytest.raises(UsageError, match=r"no rung of 100 .*\(64, 128, 192, 576\)"):
        Fixed(100).choose(LADDER, {})


@pytest.mark.parametrize(
    ("policy", "signals", "budget", "reason"),
    [
        (Fixed(128), {}, 128, "128 visual tokens were asked for"),
        (Largest(), {}, 576, "no limit was given, so the largest rung of 576"),
        (
            Limit(TABLE, max_ttft_ms=200),
            {},
            192,
            "192 is the largest rung with p95 time to first token 190 ms within 200",
        ),
        (
            Limit(TABLE, max_ttft_ms=200, max_memory_mib=215),
            {},
            128,
            "128 is the largest rung with p95 time to first token 140 ms within 200 "
            "and with memory 210 MiB within 215",
        ),
        (
            Limit(TABLE, max_ttft_ms=80),
            {},
            64,
            "no rung is within the limits, so the smallest of 64: p95 time to first token "
            "100 ms is 20 ms over the limit of 80",
        ),
        (
            Limit(BenchTable(DIGEST, "cpu", ()), max_memory_mib=80),
            {},
            64,
            "no rung is within the limits, so the smallest of 64: it was not measured; "
            "run edgetok bench",
        ),
        (
            Elbow(),
            {names.SIGNAL_ELBOW: 100.0},
            128,
            "the CLS-similarity curve bends at 100 tokens; "
            "128 is the smallest rung that holds them",
        ),
        (
            Elbow(),
            {names.SIGNAL_ELBOW: 700.0},
            576,
            "the CLS-similarity curve bends at 700 tokens; 576 is the largest, below them",
        ),
        (Elbow(), {}, 576, "the image gave no elbow signal, so the largest rung of 576"),
    ],
)
def test_reasons_are_sentences_with_the_numbers(
    policy: Policy, signals: dict[str, float], budget: int, reason: str
) -> None:
    decision = policy.choose(LADDER, signals)
    assert decision.rung.budget == budget
    assert decision.reason == reason


@pytest.mark.parametrize("value", [0, -5.0, math.nan, math.inf])
def test_limits_are_positive_numbers(value: float) -> None:
    with pytest.raises(UsageError, match=r"--max-ttft-ms .* is no positive number"):
        Limit(TABLE, max_ttft_ms=value)
    with pytest.raises(UsageError, match=r"--max-memory-mib .* is no positive number"):
        Limit(TABLE, max_memory_mib=value)


def test_a_limit_policy_needs_a_limit() -> None:
    with pytest.raises(
        UsageError, match="needs one of --max-ttft-ms, --max-memory-mib, --max-energy-j"
    ):
        Limit(TABLE)


def test_deciding_needs_no_torch() -> None:
    script = "import sys, edgetok.control; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
