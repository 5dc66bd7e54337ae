"""The certified policy: the rungs that a bundle's controller tries, smallest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from edgetok.control.policies import Decision
from edgetok.ladder import Ladder
from edgetok.rules import Controller


@dataclass(frozen=True, slots=True)
class Certified:
    """What `edgetok calibrate` found, with the risk that it certified.

    The decision costs microseconds: a sum of as many products as there are signals.
    """

    controller: Controller

    def choose(
        self, ladder: Ladder, signals: Mapping[str, float], question: Sequence[int] = ()
    ) -> Decision:
        """The first rung to try; its review says whether its answer is taken or what is next.

        Raises:
            UsageError: if the ladder lacks a rung of the controller.
        """
        return self._find(0, ladder, signals, question)

    def _find(
        self, start: int, ladder: Ladder, signals: Mapping[str, float], question: Sequence[int]
    ) -> Decision:
        rules = self.controller.rules
        for index in range(start, len(rules)):
            rule = rules[index]
            if rule.enter.score(signals, question) <= rule.enter_at_most:
                review = partial(self._review, index, ladder, signals, question)
                reason = f"{rule.budget} is the smallest rung {self._promise()}"
                return Decision(ladder.rung(rule.budget), reason, review)
        tried = ", after a smaller rung was not sure enough" if start else ""
        full = ladder.rung(self.controller.full)
        return Decision(full, f"no smaller rung than {full.budget} {self._promise()}{tried}")

    def _review(
        self,
        index: int,
        ladder: Ladder,
        signals: Mapping[str, float],
        question: Sequence[int],
        answer: Mapping[str, float],
    ) -> Decision | None:
        rule = self.controller.rules[index]
        if rule.accept.score({**signals, **answer}, question) <= rule.accept_at_most:
            return None
        return self._find(index + 1, ladder, signals, question)

    def _promise(self) -> str:
        certificate = self.controller.certificate
        risk, confidence = 100 * certificate.risk, 100 * certificate.confidence
        return f"within the certified risk of {risk:.3g} % ({confidence:.3g} % sure)"


def list_tried(
    policy: Certified,
    ladder: Ladder,
    signals: Mapping[str, float],
    question: Sequence[int],
    answers: Mapping[int, Mapping[str, float]],
) -> list[int]:
    """Budgets tried until an answer is taken.

    Args:
        answers: by budget, how sure the answer of that rung is.
    """
    decision = policy.choose(ladder, signals, question)
    tried = [decision.rung.budget]
    while decision.review and (following := decision.review(answers[tried[-1]])):
        decision = following
        tried.append(decision.rung.budget)
    return tried
