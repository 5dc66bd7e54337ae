"""Sampling: properties that hold for all logits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetok.errors import UsageError
from edgetok.runtimes.text.sampling import (
    Sampling,
    add_up,
    draw,
    greedy,
    log_probability,
    margin,
    nucleus,
    softmax,
)

LOGITS = st.lists(st.floats(-80, 80, width=32), min_size=1, max_size=40).map(
    lambda values: np.array(values, np.float32)
)


@given(LOGITS)
def test_greedy_takes_the_first_of_the_largest(logits: np.ndarray) -> None:
    token = greedy(logits)
    assert logits[token] == logits.max()
    assert (logits[:token] < logits[token]).all()


@given(LOGITS, st.floats(0.05, 20))
def test_softmax_is_a_distribution_in_the_order_of_the_logits(
    logits: np.ndarray, temperature: float
) -> None:
    probabilities = softmax(logits, temperature)
    assert probabilities.sum() == pytest.approx(1, abs=1e-12)
    order = np.argsort(logits, kind="stable")
    assert (np.diff(probabilities[order]) >= 0).all()


@given(LOGITS, st.floats(0.01, 1))
def test_the_nucleus_is_the_smallest_set_that_holds_top_p(logits: np.ndarray, top_p: float) -> None:
    probabilities = softmax(logits)
    kept = nucleus(probabilities, top_p) > 0
    held = probabilities[kept].sum()
    assert held >= top_p - 1e-9
    assert held - probabilities[kept].min() < top_p + 1e-9
    if (~kept & (probabilities > 0)).any():
        assert probabilities[~kept].max() <= probabilities[kept].min()
    assert nucleus(probabilities, top_p).sum() == pytest.approx(1, abs=1e-12)


@given(LOGITS, st.floats(0, 1, exclude_max=True))
def test_a_drawn_token_is_possible(logits: np.ndarray, uniform: float) -> None:
    probabilities = nucleus(softmax(logits), 0.7)
    assert probabilities[draw(probabilities, uniform)] > 0


def test_draws_follow_the_distribution() -> None:
    probabilities = np.array([0.5, 0.0, 0.2, 0.3])
    drawn = [draw(probabilities, (i + 0.5) / 1000) for i in range(1000)]
    assert np.bincount(drawn, minlength=4).tolist() == [500, 0, 200, 300]


def test_a_seed_fixes_the_draws() -> None:
    logits = np.random.default_rng(0).standard_normal((50, 30)).astype(np.float32)

    def tokens(seed: int) -> list[int]:
        sampler = Sampling(temperature=1.5, top_p=0.9, seed=seed).sampler()
        return [sampler(row) for row in logits]

    assert tokens(3) == tokens(3)
    assert tokens(3) != tokens(4)


def test_a_small_temperature_is_greedy() -> None:
    logits = np.random.default_rng(0).standard_normal((50, 30)).astype(np.float32)
    cold = Sampling(temperature=1e-6).sampler()
    assert [cold(row) for row in logits] == [greedy(row) for row in logits]


@given(LOGITS)
def test_log_probability_is_the_logarithm_of_softmax(logits: np.ndarray) -> None:
    token = greedy(logits)
    wanted = float(np.log(softmax(logits)[token]))
    assert log_probability(logits, token) == pytest.approx(wanted, abs=1e-4)


@given(LOGITS)
def test_margin_lies_between_unsure_and_certain(logits: np.ndarray) -> None:
    assert 0 <= margin(logits) <= 1
    if len(logits) > 1 and logits.max() == np.partition(logits, -2)[-2]:
        assert margin(logits) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature -0.1"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"temperature": float("inf")}, "temperature inf"),
        ({"top_p": 0.0}, "top_p 0.0"),
        ({"top_p": 1.5}, "top_p 1.5"),
        ({"top_p": float("nan")}, "top_p nan"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_values_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Sampling(**options)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 1000, 16384, 16385, 40_000])
def test_sums_are_added_up_in_the_order_that_is_told(count: int) -> None:
    """The C library adds so: another NumPy must not do otherwise."""
    values = np.random.default_rng(count).lognormal(size=count) ** 5
    total = [0.0] * 64
    for start in range(0, count, 16384):
        lanes = [0.0] * 64
        for index, value in enumerate(values[start : start + 16384].tolist()):
            lanes[index % 64] += value
        total = [a + b for a, b in zip(total, lanes, strict=True)]
    wanted = 0.0
    for lane in total:
        wanted += lane
    assert add_up(values) == wanted


@given(LOGITS)
def test_probabilities_are_those_of_higher_precision(logits: np.ndarray) -> None:
    exact = [math.exp(float(logit) - float(logits.max())) for logit in logits]
    wanted = np.array(exact) / math.fsum(exact)
    np.testing.assert_allclose(softmax(logits), wanted, rtol=1e-10)
