"""Audits in a trace: what is watched, when the alarm rises, and that it is not taken back."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetok.control.audits import describe, watch, watched_risk
from edgetok.control.certificate import binomial_p, bound_risk, hoeffding_bentkus_p
from edgetok.control.trace import Entry, Tried
from edgetok.errors import UsageError
from edgetok.rules import Certificate

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
    differs=0.1,
)


def entries(*differs: bool | None) -> list[Entry]:
    tried = [Tried(16, {})]
    return [Entry("c" * 64, {}, [], tried, "", {}, differs=each) for each in differs]


def test_wrong_answers_are_watched_by_the_share_of_other_ones() -> None:
    assert watched_risk(CERTIFICATE) == 0.1
    assert watched_risk(msgspec.structs.replace(CERTIFICATE, loss="differs")) == 0.02
    for missing in (None, 0.0, 1.0):
        with pytest.raises(UsageError, match="run `edgetok calibrate` again"):
            watched_risk(msgspec.structs.replace(CERTIFICATE, differs=missing))


def test_answers_that_were_not_audited_say_nothing() -> None:
    drift = watch(entries(None, False, None, True), CERTIFICATE)
    assert drift.audits == 2 and not drift.broken_once
    assert describe(drift, 1).startswith("no drift: 1 of 2 audited answers differ")


def test_an_alarm_stays_when_better_answers_follow() -> None:
    drift = watch(entries(*[True] * 10, *[False] * 1000), CERTIFICATE)
    assert drift.broken_once and not drift.is_broken
    assert describe(drift, 10).startswith("DRIFT: 10 of 1010")


def test_a_trace_of_questions_like_the_samples_raises_no_alarm() -> None:
    rng = np.random.default_rng(0)
    alarms = sum(
        watch(entries(*(rng.random(300) < 0.1)), CERTIFICATE).broken_once for _ in range(100)
    )
    assert alarms <= 4  # 1 expected at most


@given(st.integers(1, 400), st.data())
@settings(deadline=None)
def test_the_bound_is_where_the_exact_tail_meets_the_error(total: int, data: st.DataObject) -> None:
    wrong = data.draw(st.integers(0, total - 1))
    found = bound_risk(lambda risk: binomial_p(wrong, total, risk), 0.05)
    tail = math.fsum(
        math.comb(total, k) * found**k * (1 - found) ** (total - k) for k in range(wrong + 1)
    )
    assert tail == pytest.approx(0.05, rel=1e-3)
    loose = bound_risk(lambda risk: hoeffding_bentkus_p(wrong / total, total, risk), 0.05)
    assert found <= loose + 1e-9
