"""Shared budgets against every possible choice, and a price that finds its mean."""

from __future__ import annotations

import math
import random
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetok.control.sharing import Price, predict_qualities, share_tokens
from edgetok.errors import UsageError
from edgetok.rules import Certificate, Controller, Rule, Scorer

BUDGETS = (16, 32, 64, 128)
image = st.dictionaries(st.sampled_from(BUDGETS), st.integers(0, 20), min_size=1)
images = st.lists(image, min_size=1, max_size=4)


def best(given_: list[dict[int, int]], pool: int) -> int | None:
    """The highest sum of qualities of any choice that fits."""
    every = product(*(rungs.items() for rungs in given_))
    sums = [sum(q for _, q in choice) for choice in every if sum(t for t, _ in choice) <= pool]
    return max(sums, default=None)


@given(images, st.integers(0, 600))
@settings(max_examples=200, deadline=None)
def test_the_best_choice_is_less_than_an_upgrade_away(
    given_: list[dict[int, int]], pool: int
) -> None:
    possible = best(given_, pool)
    if possible is None:
        with pytest.raises(UsageError, match="smallest rungs"):
            share_tokens(given_, pool)
        return
    chosen = share_tokens(given_, pool)
    assert sum(chosen) <= pool
    found = sum(rungs[budget] for rungs, budget in zip(given_, chosen, strict=True))
    # No upgrade is worth more than the span of its image.
    assert possible - found <= max(max(r.values()) - min(r.values()) for r in given_)


@given(images, st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_a_pool_that_a_price_would_spend_is_spent_best(
    given_: list[dict[int, int]], price: float
) -> None:
    """The theorem of Lagrange: what is best at a price is best for the tokens that it spends."""
    at_price = [min(r, key=lambda t: (price * t - r[t], t)) for r in given_]
    chosen = share_tokens(given_, sum(at_price))
    found = sum(rungs[budget] for rungs, budget in zip(given_, chosen, strict=True))
    assert found == best(given_, sum(at_price))


def test_detail_goes_where_it_helps() -> None:
    plain, rich = {16: 0.9, 64: 0.91, 576: 0.92}, {16: 0.2, 64: 0.6, 576: 0.95}
    assert share_tokens([plain, rich, plain], 700) == (64, 576, 16)
    assert share_tokens([rich, rich], 128) == (64, 64)


@pytest.mark.parametrize("target", [20.0, 60.0, 200.0])
def test_a_stream_spends_what_it_may(target: float) -> None:
    draw, price = random.Random(3), Price(target, step=1e-6)
    spent = []
    for _ in range(10_000):
        ease = draw.random()
        qualities = {b: 1 - (1 - ease) * math.exp(-b / (400 * draw.random() + 1)) for b in BUDGETS}
        qualities[576] = 1.0
        spent.append(price.spend(qualities))
    assert sum(spent) / len(spent) == pytest.approx(target, rel=0.06)


def test_a_stream_without_need_spends_less() -> None:
    price = Price(100.0)
    assert {price.spend({16: 1.0, 576: 1.0}) for _ in range(50)} == {16}


@pytest.mark.parametrize("bad", [{}, {16: math.nan}, {-1: 0.5}])
def test_rungs_that_are_none_are_refused(bad: dict[int, float]) -> None:
    with pytest.raises(UsageError, match="image 1"):
        share_tokens([{16: 0.5}, bad], 100)
    with pytest.raises(UsageError, match="no positive number"):
        Price(0.0)


def test_qualities_are_probabilities_that_nothing_is_lost() -> None:
    rule = Rule(
        budget=16,
        enter=Scorer(bias=-2.0, signals={"a": 1.0}),
        enter_at_most=0.0,
        accept=Scorer(),
        accept_at_most=0.0,
    )
    certificate = Certificate(
        risk=0.02,
        confidence=0.95,
        loss="wrong",
        unit="question",
        units=500,
        mean_loss=0.0,
        p_value=0.01,
        mean_tokens=10.0,
        data_sha256="a" * 64,
        bundle_sha256="b" * 64,
        flavour="ort",
    )
    controller = Controller(rules=[rule], full=576, certificate=certificate, cases=[])
    found = predict_qualities(controller, {"a": 0.0}, [])
    assert found == {576: 1.0, 16: pytest.approx(1 / (1 + math.exp(-2.0)))}
    assert predict_qualities(controller, {}, []) == {576: 1.0, 16: 0.0}
