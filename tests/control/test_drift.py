"""The bet against a certificate: rarely won while it holds, soon won when it does not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgetok.control.drift import Drift
from edgetok.errors import UsageError


def alarms(risk: float, error: float, true_risk: float, trials: int, audits: int) -> float:
    """Share of runs in which the alarm is ever raised."""
    losses = np.random.default_rng(0).random((trials, audits)) < true_risk
    raised = 0
    for run in losses:
        drift = Drift(risk, error)
        raised += any(drift.see(float(loss)) for loss in run)
    return raised / trials


def test_false_alarms_are_as_rare_as_promised_however_often_one_looks() -> None:
    rate = alarms(0.1, 0.05, 0.1, trials=400, audits=400)
    assert rate <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def test_a_broken_certificate_is_noticed() -> None:
    assert alarms(0.02, 0.01, 0.06, trials=100, audits=1000) > 0.95


def test_an_alarm_is_not_taken_back_by_the_same_audit() -> None:
    drift = Drift(0.02, 0.3)
    assert drift.see(1.0) and drift.is_broken and drift.audits == 1


@pytest.mark.parametrize("loss", [-0.1, 1.1, math.nan])
def test_losses_outside_their_range_are_refused(loss: float) -> None:
    with pytest.raises(UsageError, match=r"outside 0\.\.1"):
        Drift(0.02).see(loss)


@pytest.mark.parametrize(("risk", "error"), [(0.0, 0.01), (0.02, 1.0)])
def test_limits_outside_their_range_are_refused(risk: float, error: float) -> None:
    with pytest.raises(UsageError, match=r"outside 0\.\.1"):
        Drift(risk, error)
