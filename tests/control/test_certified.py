"""The certified policy: sums of plain numbers, smallest rung first, and what a trace repeats."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetok.control import Certified, Fixed
from edgetok.control.certified import list_tried
from edgetok.control.trace import Entry, Tried, append_entry, load_trace, repeat
from edgetok.errors import InputError, ResourceError, UsageError
from edgetok.ladder import build_ladder
from edgetok.rules import Certificate, Controller, Rule, Scorer

LADDER = build_ladder((16, 64, 576), 32, 16)
CERTIFICATE = Certificate(
    risk=0.02,
    confidence=0.95,
    loss="wrong",
    unit="question",
    units=500,
    mean_loss=0.004,
    p_value=0.01,
    mean_tokens=100.0,
    data_sha256="a" * 64,
    bundle_sha256="b" * 64,
    flavour="ort",
)
NUMBERS = st.floats(-1e3, 1e3)
SCORERS = st.builds(
    Scorer,
    bias=NUMBERS,
    signals=st.dictionaries(st.sampled_from(["a", "b", "answer_margin"]), NUMBERS),
    per_token=NUMBERS,
    tokens=st.dictionaries(st.integers(0, 9), NUMBERS).map(lambda found: sorted(found.items())),
)


def rule(budget: int, enter: Scorer, accept: Scorer, enter_at: float, accept_at: float) -> Rule:
    return Rule(
        budget=budget,
        enter=enter,
        enter_at_most=enter_at,
        accept=accept,
        accept_at_most=accept_at,
    )


def controller(*rules: Rule) -> Controller:
    return Controller(rules=list(rules), full=576, certificate=CERTIFICATE, cases=[])


RULES = st.builds(
    controller,
    st.builds(rule, st.just(16), SCORERS, SCORERS, NUMBERS, NUMBERS),
    st.builds(rule, st.just(64), SCORERS, SCORERS, NUMBERS, NUMBERS),
)
SIGNALS = st.dictionaries(st.sampled_from(["a", "b"]), st.floats(), max_size=2)
QUESTIONS = st.lists(st.integers(0, 12), max_size=8)


def test_score_is_the_sum_in_words() -> None:
    scorer = Scorer(
        bias=1.0, signals={"b": 2.0, "a": 3.0}, per_token=0.5, tokens=[(7, 10.0), (9, 1.0)]
    )
    assert scorer.score({"a": 1.0, "b": -1.0, "c": 99.0}, [7, 7, 8]) == 1 + 3 - 2 + 1.5 + 10


def test_order_of_additions_is_fixed() -> None:
    """In another order the small terms would be lost, or not."""
    scorer = Scorer(signals={"a": 1e16, "b": 1.0, "c": -1e16})
    assert scorer.score({"c": 1.0, "b": 1.0, "a": 1.0}, []) == (1e16 + 1.0) - 1e16
    assert (
        Scorer(tokens=[(1, 1e16), (2, 1.0), (3, -1e16)]).score({}, [3, 2, 1]) == (1e16 + 1.0) - 1e16
    )


@pytest.mark.parametrize("signals", [{}, {"a": math.nan}, {"a": math.inf}])
def test_a_damaged_signal_never_saves_tokens(signals: dict[str, float]) -> None:
    scorer = Scorer(signals={"a": -1.0})
    assert scorer.score(signals, []) == math.inf
    policy = Certified(controller(rule(16, scorer, Scorer(), 1e300, 0.0)))
    assert policy.choose(LADDER, signals).rung.budget == 576


@given(RULES, SIGNALS, QUESTIONS, st.data())
@settings(deadline=None)
def test_rungs_rise_until_an_answer_is_taken(
    rules: Controller, signals: dict[str, float], question: list[int], data: st.DataObject
) -> None:
    sure = st.fixed_dictionaries({"answer_margin": st.floats(allow_nan=True)})
    answers = {budget: data.draw(sure) for budget in (16, 64, 576)}
    tried = list_tried(Certified(rules), LADDER, signals, question, answers)
    assert tried == sorted(set(tried)) and tried[-1] <= 576
    for number, budget in enumerate(tried):
        found = next((r for r in rules.rules if r.budget == budget), None)
        if found is None:
            assert budget == 576 and number == len(tried) - 1
            continue
        assert found.enter.score(signals, question) <= found.enter_at_most
        sum_ = found.accept.score(signals | answers[budget], question)
        assert (sum_ <= found.accept_at_most) == (number == len(tried) - 1)


@given(RULES, SIGNALS, QUESTIONS)
@settings(deadline=None)
def test_numbers_survive_the_manifest(
    rules: Controller, signals: dict[str, float], question: list[int]
) -> None:
    again = msgspec.json.decode(msgspec.json.encode(rules, order="sorted"), type=Controller)
    assert again == rules
    first = Certified(rules).choose(LADDER, signals, question)
    assert Certified(again).choose(LADDER, signals, question).rung == first.rung


def test_reason_names_rung_and_certificate() -> None:
    policy = Certified(controller(rule(16, Scorer(), Scorer(bias=1.0), 0.0, 0.0)))
    decision = policy.choose(LADDER, {})
    assert decision.reason == "16 is the smallest rung within the certified risk of 2 % (95 % sure)"
    assert decision.review is not None
    following = decision.review({})
    assert following is not None and following.rung.budget == 576
    assert "after a smaller rung was not sure enough" in following.reason


def test_a_rung_that_is_not_there_is_an_error() -> None:
    policy = Certified(controller(rule(32, Scorer(), Scorer(), 0.0, 0.0)))
    with pytest.raises(UsageError, match="no rung of 32"):
        policy.choose(LADDER, {})


@pytest.mark.parametrize("value", ["1e999", "NaN", '"1"', "null"])
def test_numbers_that_are_none_are_refused(value: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(f'{{"bias": {value}}}', type=Scorer)


def entry(*tried: tuple[int, float], signals: dict[str, float] | None = None) -> Entry:
    rungs = [Tried(budget, {"answer_margin": margin}) for budget, margin in tried]
    return Entry("c" * 64, signals or {}, [1, 2], rungs, "because", {"ttft": 1.0})


SURE = Scorer(signals={"answer_margin": -1.0})


def test_replay_repeats_the_live_decisions(tmp_path: Path) -> None:
    policy = Certified(controller(rule(16, Scorer(), SURE, 0.0, -0.5)))
    path = tmp_path / "trace.jsonl"
    for written in (entry((16, 0.9)), entry((16, 0.2), (576, 0.3))):
        append_entry(path, written)
    found = repeat(lambda: (policy, None), LADDER, load_trace(path))
    assert [r.tried for r in found] == [(16,), (16, 576)] and all(r.same for r in found)


def test_replay_says_what_it_cannot_know() -> None:
    policy = Certified(controller(rule(64, Scorer(), SURE, 0.0, -0.5)))
    (found,) = repeat(lambda: (policy, None), LADDER, [entry((16, 0.9))])
    assert found.tried == (64,) and found.open and not found.same
    (fixed,) = repeat(lambda: (Fixed(576), None), LADDER, [entry((16, 0.9))])
    assert fixed.tried == (576,) and not fixed.open


@pytest.mark.parametrize("text", ["", "{}\n", "[1\n", "\x00\n"])
def test_files_that_are_no_trace_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=r"trace\.jsonl"):
        load_trace(path)


def test_a_trace_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="cannot be written"):
        append_entry(tmp_path / "no" / "trace.jsonl", entry((16, 0.9)))
    with pytest.raises(InputError, match="cannot be read"):
        load_trace(tmp_path / "none.jsonl")
