"""Asking the full rung once more, for a share of the live answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from edgetok.calibration.evaluate import normalise
from edgetok.control.audits import watched_risk
from edgetok.errors import UsageError
from edgetok.runtimes.answers.answer import Answer
from edgetok.runtimes.answers.model import Model
from edgetok.runtimes.answers.request import EncodedImage
from edgetok.runtimes.images.several import Pictures


class Auditor:
    """Compares a share of the controller's answers with those of its full rung.

    An audited answer costs that of the full rung beside its own; where the full rung answered
    anyway it costs nothing. Which answers are audited depends on chance alone.

    Args:
        model: whose bundle has a controller.
        share: of the answers, above 0 and at most 1.
        chance: numbers of 0..1.

    Raises:
        UsageError: for another share, or without a certificate that audits can be held against.
    """

    def __init__(
        self,
        model: Model,
        share: float,
        chance: Callable[[], float] = random.random,
    ) -> None:
        if not 0 < share <= 1:
            raise UsageError(f"--audit {share} is no share above 0 and up to 1; 0.02 is usual")
        controller = model.manifest.controller
        if controller is None or controller.certificate.flavour != model.runtime.flavour:
            raise UsageError(
                "--audit holds answers against a certificate, and this bundle has none for these "
                "graphs; run `edgetok calibrate` first"
            )
        watched_risk(controller.certificate)
        self._model = model
        self._full = controller.full
        self._share = share
        self._chance = chance

    def differs(
        self,
        image: Pictures | EncodedImage,
        prompt: str,
        answer: Answer,
        weights: Sequence[float] | None = None,
        system: str | None = None,
    ) -> bool | None:
        """Whether the full rung answers otherwise; None where this answer is not audited."""
        if self._chance() >= self._share:
            return None
        if answer.budget == self._full:
            return False
        full = self._model.generate(
            image, prompt, budget=self._full, weights=weights, system=system
        )
        return normalise(full.text) != normalise(answer.text)
