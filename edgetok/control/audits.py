"""Audits: live answers that the full rung gave once more, against what the certificate says."""

from __future__ import annotations

from collections.abc import Sequence

from edgetok.control.drift import Drift
from edgetok.control.trace import Entry
from edgetok.errors import UsageError
from edgetok.rules import Certificate

ERROR = 0.01  # chance of a false alarm, ever


def watched_risk(certificate: Certificate) -> float:
    """The most that answers may differ from the full rung's while the certificate holds.

    Nobody knows live what is right, so audits see other answers, not wrong ones: where losses are
    wrong answers, the bound on others is what the calibration measured beside them.

    Raises:
        UsageError: if it was not measured, or is no share that can be exceeded.
    """
    risk = certificate.risk if certificate.loss == "differs" else certificate.differs
    if risk is None or not 0 < risk < 1:
        raise UsageError(
            "the controller's certificate does not say how often its answers may differ from the "
            "full rung's, so audits tell nothing; run `edgetok calibrate` again"
        )
    return risk


def watch(entries: Sequence[Entry], certificate: Certificate) -> Drift:
    """The bets against the certificate after all audits of a trace, in their order."""
    drift = Drift(watched_risk(certificate), ERROR)
    for entry in entries:
        if entry.differs is not None:
            drift.see(float(entry.differs))
    return drift


def describe(drift: Drift, differing: int) -> str:
    """What the audits say, in a sentence."""
    seen = (
        f"{differing} of {drift.audits} audited answers differ from the full rung's, "
        f"at most {100 * drift.risk:.3g} % should"
    )
    if drift.broken_once:
        return (
            f"DRIFT: {seen}: questions are no longer like the samples; calibrate on newer ones, or "
            "ask the full rung (--budget) until then"
        )
    return f"no drift: {seen}"
