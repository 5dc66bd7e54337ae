"""A bundle's controller asked about other samples than those that certified it.

A certificate is a statement about samples like those of the calibration; here it is held against
what the controller answers and what the full rung would have said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgetok.calibration.evaluate import Score, is_right
from edgetok.calibration.samples import Sample
from edgetok.control.certificate import binomial_p, hoeffding_bentkus_p
from edgetok.errors import InputError
from edgetok.rules import Certificate, Controller

Report = Callable[[str, float], None]


class Model(Protocol):
    """What is asked; `edgetok.load` gives one. Without a budget its controller decides."""

    def encode(self, image: Path, /) -> Any: ...
    def forget(self) -> None: ...
    def generate(self, image: Any, prompt: str, /, *, budget: int | None = None) -> Any: ...


@dataclass(frozen=True, slots=True)
class Recheck:
    """What a controller did with new samples.

    Args:
        loss: what counts as lost, as the certificate has it.
        risk: what the certificate allows to be lost, with `confidence`.
        mean_loss: over images, of each the mean over its questions.
        p_value: how likely so much is lost where the expected loss is the risk; small ones speak
            against the certificate on samples like these.
        holds: whether `p_value` is above 1 - confidence.
        same: answers equal to the full rung's.
        right, full_right: answers that are the known ones; None where not all are known.
        mean_tokens: visual tokens of a question, those of answers not taken included.
        certified_tokens: the same in the calibration.
        taken: by budget, how many answers came from its rung.
    """

    samples: int
    images: int
    loss: str
    risk: float
    confidence: float
    mean_loss: float
    p_value: float
    holds: bool
    same: Score
    right: Score | None
    full_right: Score | None
    mean_tokens: float
    certified_tokens: float
    full: int
    taken: dict[int, int]


@dataclass(frozen=True, slots=True)
class _Asked:
    image: Path
    same: bool
    right: bool | None
    full_right: bool | None
    tokens: int
    budget: int

    def lost(self, certificate: Certificate) -> bool:
        if certificate.loss == "differs":
            return not self.same
        return self.full_right is True and not self.right


def recheck(
    model: Model, samples: Sequence[Sample], controller: Controller, progress: Report
) -> Recheck:
    """Ask every question twice: as the controller decides, and on the full rung.

    Raises:
        InputError: if there are no samples, losses need answers that are missing, or a rung gives
            no answer.
    """
    _require(samples, controller.certificate)
    ordered = sorted(samples, key=lambda sample: sample.image)
    asked: list[_Asked] = []
    for image, questions in groupby(ordered, key=lambda sample: sample.image):
        encoded = model.encode(image)
        for sample in questions:
            progress("answering", len(asked) / len(samples))
            asked.append(_ask(model, encoded, sample, controller.full))
    return _judge(asked, controller)


def _require(samples: Sequence[Sample], certificate: Certificate) -> None:
    if not samples:
        raise InputError("no samples to evaluate")
    unknown = sum(sample.answer is None for sample in samples)
    if unknown and certificate.loss == "wrong":
        raise InputError(
            f"{unknown} of {len(samples)} samples have no `answer`, and this certificate counts "
            "wrong answers; give answers"
        )


def _ask(model: Model, encoded: Any, sample: Sample, full: int) -> _Asked:
    model.forget()  # an answer must not begin with the rows of the one before it
    given = model.generate(encoded, sample.prompt)
    whole = given
    if given.budget != full:
        model.forget()
        whole = model.generate(encoded, sample.prompt, budget=full)
    if "numeric" in (given.stop_reason, whole.stop_reason):
        raise InputError(
            f"{sample.image}: no answer to {sample.prompt[:80]!r} (logits were not finite); "
            "`edgetok verify` the bundle"
        )
    right, full_right = (_is_right(answer.text, sample.answer) for answer in (given, whole))
    spent, same = sum(one.budget for one in given.attempts), is_right(given.text, whole.text)
    return _Asked(sample.image, same, right, full_right, spent, given.budget)


def _is_right(given: str, expected: str | None) -> bool | None:
    return None if expected is None else is_right(given, expected)


def _judge(asked: Sequence[_Asked], controller: Controller) -> Recheck:
    certificate = controller.certificate
    losses = _by_image([(one.image, float(one.lost(certificate))) for one in asked])
    mean_loss = float(np.mean(losses))
    p_value = _p_value(losses, len(asked), certificate.risk)
    known = all(one.right is not None for one in asked)
    return Recheck(
        samples=len(asked),
        images=len(losses),
        loss=certificate.loss,
        risk=certificate.risk,
        confidence=certificate.confidence,
        mean_loss=mean_loss,
        p_value=p_value,
        holds=p_value > 1 - certificate.confidence,
        same=Score.count(one.same for one in asked),
        right=Score.count(bool(one.right) for one in asked) if known else None,
        full_right=Score.count(bool(one.full_right) for one in asked) if known else None,
        mean_tokens=float(np.mean([one.tokens for one in asked])),
        certified_tokens=certificate.mean_tokens,
        full=controller.full,
        taken=dict(sorted(Counter(one.budget for one in asked).items())),
    )


def _by_image(losses: Sequence[tuple[Path, float]]) -> list[float]:
    """Mean loss of each image; samples stand by image."""
    grouped = groupby(losses, key=lambda pair: pair[0])
    return [float(np.mean([loss for _, loss in pairs])) for _, pairs in grouped]


def _p_value(losses: Sequence[float], questions: int, risk: float) -> float:
    """Of the claim that the risk is at most `risk`: the tests of a calibration, turned round."""
    total = len(losses)
    if total == questions:
        return binomial_p(total - round(sum(losses)), total, 1 - risk)
    kept = min(1.0, float(np.mean([1 - loss for loss in losses])))
    return hoeffding_bentkus_p(kept, total, 1 - risk)
