"""The joint search: fronts against every pair, halving that keeps the best, a journal."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetok.calibration.tuning import (
    FINALISTS,
    Candidate,
    Goal,
    Journal,
    Measured,
    Point,
    attempt,
    choose,
    find_front,
    list_candidates,
    plan_rounds,
    rank,
    search,
)
from edgetok.errors import InputError, ResourceError, UsageError

OF = "a"
points = st.builds(
    Point,
    budget=st.sampled_from([16, 64]),
    right=st.integers(0, 4),
    total=st.just(4),
    ttft_ms=st.integers(1, 4).map(float),
    decode_ms=st.just(1.0),
    memory_mib=st.integers(1, 4).map(float),
)
goals = st.builds(
    Goal, st.none() | st.integers(1, 4).map(float), st.none() | st.integers(1, 4).map(float)
)


def candidate(number: int) -> Candidate:
    return Candidate(f"m{number}", "int8", "fp32")


measured = st.lists(st.lists(points, min_size=1, max_size=3), min_size=1, max_size=5).map(
    lambda rows: [Measured(OF, candidate(i), 4, row) for i, row in enumerate(rows)]
)


def worse(a: Point, b: Point) -> bool:
    """Whether b is at least as good in all three and better in one, spelled out."""
    no_better = a.right <= b.right and a.ttft_ms >= b.ttft_ms and a.memory_mib >= b.memory_mib
    better = b.right > a.right or b.ttft_ms < a.ttft_ms or b.memory_mib < a.memory_mib
    return no_better and better


@given(measured)
@settings(deadline=None)
def test_a_front_is_what_nothing_beats(found: list[Measured]) -> None:
    pairs = [(m, p) for m in found for p in m.points]
    front = find_front(pairs)
    assert front == [pair for pair in pairs if not any(worse(pair[1], p) for _, p in pairs)]


@given(measured, goals)
@settings(deadline=None)
def test_a_useful_candidate_is_before_a_useless_one(found: list[Measured], goal: Goal) -> None:
    ranked = rank(found, goal)
    assert sorted(m.candidate.name for m in ranked) == sorted(m.candidate.name for m in found)
    useful = [any(goal.allows(p) for p in m.points) for m in ranked]
    assert useful == sorted(useful, reverse=True)
    pairs = [(m, p) for m in found for p in m.points]
    best = choose(find_front([pair for pair in pairs if goal.allows(pair[1])]), goal)
    within = [p for _, p in pairs if goal.allows(p)]
    assert (best is None) == (not within)
    if best is not None:
        assert best[1].right == max(p.right for p in within)


@given(st.integers(1, 256), st.integers(1, 2000))
@settings(deadline=None)
def test_rounds_halve_until_few_are_left_who_are_asked_everything(count: int, asked: int) -> None:
    rounds = plan_rounds(count, asked)
    assert rounds[0][0] == count and rounds[-1][1] == asked and rounds[-1][0] <= FINALISTS
    for (many, few), (fewer, more) in pairwise(rounds):
        assert fewer == -(-many // 2) and few <= more
    total = sum(n * questions for n, questions in rounds)
    assert total <= len(rounds) * (count * asked + count)


class Machine:
    """Candidates of known truth: number n is right n times in twenty, and some are refused."""

    def __init__(self, refused: tuple[int, ...] = ()) -> None:
        self.refused, self.asked = refused, list[tuple[str, int]]()

    def measure(self, one: Candidate, questions: int) -> Measured:
        self.asked.append((one.name, questions))
        number = int(one.method[1:])
        if number in self.refused:
            return Measured(OF, one, questions, [], failed="cannot be traced")
        draw = random.Random(f"{number} {questions}")
        right = sum(draw.random() < number / 20 for _ in range(questions))
        return Measured(OF, one, questions, [Point(64, right, questions, 10.0, 1.0, 100.0)])


def test_the_best_survives_and_the_bad_are_asked_little() -> None:
    machine = Machine(refused=(19,))
    everyone = [candidate(n) for n in range(20)]
    found = search(everyone, 400, machine.measure, Goal(), lambda doing, share: None)
    assert candidate(18) in [m.candidate for m in found] and len(found) <= FINALISTS
    assert {m.questions for m in found} == {400}
    assert ("m19-int8-fp32-none", 50) in machine.asked  # once, and never again
    assert sum(name.startswith("m19-") for name, _ in machine.asked) == 1
    assert sum(n for _, n in machine.asked) < 0.6 * 20 * 400


def test_a_search_in_which_nothing_works_says_why() -> None:
    machine = Machine(refused=(0, 1))
    with pytest.raises(InputError, match="m0-int8-fp32-none: cannot be traced"):
        search([candidate(0), candidate(1)], 4, machine.measure, Goal(), lambda *_: None)


def test_an_interrupted_search_goes_on_behind_its_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    first = Journal(path, OF)
    point = Point(64, 1, 4, 10.0, 1.0, 100.0)
    first.note(Measured(OF, candidate(0), 4, [point]))
    first.note(Measured(OF, candidate(1), 4, [], failed="refused"))
    path.write_bytes(path.read_bytes() + b'{"of": "a", "cand')  # the power went
    again = Journal(path, OF)
    assert again.find(candidate(0), 4) == Measured(OF, candidate(0), 4, [point])
    assert again.find(candidate(0), 8) is None and again.of_candidate(candidate(1)) is None
    assert [m.failed for m in again.list_failed()] == ["refused"]
    again.note(Measured(OF, candidate(0), 8, [point]))
    assert Journal(path, OF).find(candidate(0), 8) is not None
    assert Journal(path, "another search").find(candidate(0), 4) is None


def test_a_refusal_is_a_finding_and_a_full_disk_is_not(tmp_path: Path) -> None:
    def refuse() -> Measured:
        raise UsageError("no such method")

    def fill() -> Measured:
        raise ResourceError("no space left")

    assert attempt(OF, candidate(0), 4, refuse).failed == "no such method"
    with pytest.raises(ResourceError):
        attempt(OF, candidate(0), 4, fill)
    with pytest.raises(ResourceError, match="cannot be written"):
        Journal(tmp_path / "no" / "journal.jsonl", OF).note(Measured(OF, candidate(0), 4, []))


def test_combinations_are_counted_before_they_are_tried() -> None:
    assert len(list_candidates(["a", "b", "a"], ["int8"], ["fp32", "int8"], ["none"])) == 4
    with pytest.raises(UsageError, match="0 combinations"):
        list_candidates([], ["int8"], ["fp32"], ["none"])
    with pytest.raises(UsageError, match="300 combinations"):
        list_candidates([str(n) for n in range(300)], ["int8"], ["fp32"], ["none"])
