"""Statistics of certificates against exact sums, known tables and simulations of known truth."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetok.control.certificate import (
    binomial_p,
    count_certified,
    hoeffding_bentkus_p,
)
from edgetok.errors import UsageError

RISKS = st.sampled_from([Fraction(1, 100), Fraction(1, 50), Fraction(1, 10), Fraction(1, 2)])


@given(st.integers(0, 60), st.integers(0, 60), RISKS)
@settings(deadline=None)
def test_binomial_tail_is_the_sum_of_fractions(a: int, b: int, risk: Fraction) -> None:
    wrong, total = min(a, b), max(a, b)
    terms = (math.comb(total, k) * risk**k * (1 - risk) ** (total - k) for k in range(wrong + 1))
    assert binomial_p(wrong, total, float(risk)) == pytest.approx(float(sum(terms)), rel=1e-9)


def test_tails_of_many_samples_neither_vanish_nor_explode() -> None:
    assert binomial_p(100_000, 100_000, 0.5) == pytest.approx(1.0)
    assert binomial_p(0, 100_000, 0.5) == 0.0
    assert binomial_p(50_000, 100_000, 0.5) == pytest.approx(0.5, abs=0.01)


@given(st.floats(0, 1), st.integers(1, 300), RISKS)
@settings(deadline=None)
def test_bound_for_any_loss_is_never_below_the_exact_one(
    mean: float, total: int, risk: Fraction
) -> None:
    """What holds for every loss in 0..1 holds for coins, whose tail is known."""
    wrong = math.floor(mean * total)
    exact = binomial_p(wrong, total, float(risk))
    assert hoeffding_bentkus_p(wrong / total, total, float(risk)) >= exact - 1e-12


def test_numbers_of_samples_are_those_of_the_tables() -> None:
    assert binomial_p(0, 59, 0.05) <= 0.05 < binomial_p(0, 58, 0.05)
    assert binomial_p(0, 149, 0.02) <= 0.05 < binomial_p(0, 148, 0.02)
    assert binomial_p(5, 500, 0.02) == pytest.approx(0.065, abs=0.002)
    assert binomial_p(6, 600, 0.02) == pytest.approx(0.044, abs=0.002)


def test_a_path_ends_at_its_first_failure() -> None:
    assert count_certified([0.001, 0.04, 0.06, 0.01], 0.05) == 2
    assert count_certified([0.2, 0.001], 0.05) == 0
    assert count_certified([], 0.05) == 0


def test_certified_risk_is_exceeded_no_more_often_than_promised() -> None:
    """Policies of known risk: over 2,000 calibrations the boldest certified one keeps the limit."""
    generator = np.random.default_rng(0)
    true_risks = np.linspace(0.0, 0.06, 25)
    limit, error, n, trials = 0.02, 0.05, 600, 2000
    broken = 0
    for _ in range(trials):
        # One uniform number per sample couples the policies, as one set of samples does.
        uniform = generator.random(n)
        wrong = (uniform[None] < true_risks[:, None]).sum(1)
        certified = count_certified([binomial_p(int(w), n, limit) for w in wrong], error)
        broken += certified > 0 and true_risks[certified - 1] > limit
    assert broken / trials <= error + 3 * math.sqrt(error * (1 - error) / trials)
    assert broken > 0  # not because nothing was ever certified near the limit


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_limits_outside_their_range_are_refused(value: float) -> None:
    with pytest.raises(UsageError, match=r"outside 0\.\.1"):
        binomial_p(0, 10, value)
    with pytest.raises(UsageError, match=r"outside 0\.\.1"):
        count_certified([0.1], value)


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(UsageError, match="11 losses of 10"):
        binomial_p(11, 10, 0.1)
    with pytest.raises(UsageError, match="mean loss"):
        hoeffding_bentkus_p(1.5, 10, 0.1)
