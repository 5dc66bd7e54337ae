"""Accuracy of each rung on samples whose answers are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgetok.calibration.samples import Sample
from edgetok.errors import InputError

_Z95 = 1.959964  # two-sided 95 % of the normal distribution
_SPARE_TOKENS = 8  # of an answer that is right but spaced otherwise, and its stop token

Report = Callable[[str, float], None]


class Answer(Protocol):
    """What a model gives back."""

    @property
    def text(self) -> str: ...


class Model(Protocol):
    """What is evaluated; `edgetok.load` gives one. An encoded image serves every rung."""

    def encode(self, image: Path, /) -> Any: ...

    def generate(
        self, image: Any, prompt: str, /, *, budget: int, max_new_tokens: int
    ) -> Answer: ...


@dataclass(frozen=True, slots=True)
class Score:
    """Right answers of a total, with the Wilson interval that holds the truth 95 times in 100."""

    right: int
    total: int
    accuracy: float
    low: float
    high: float

    @classmethod
    def count(cls, outcomes: Iterable[bool]) -> Score:
        given = tuple(outcomes)
        low, high = wilson_interval(sum(given), len(given))
        return cls(sum(given), len(given), sum(given) / len(given), low, high)


@dataclass(frozen=True, slots=True)
class RungScore:
    """One rung: its visual tokens, and how often it was right, in all and per kind."""

    budget: int
    all: Score
    kinds: Mapping[str, Score]


@dataclass(frozen=True, slots=True)
class Oracle:
    """A controller that always knew the smallest rung that answers right: the bound for any.

    Where no rung is right it spends the smallest one.
    """

    mean_tokens: float
    score: Score


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How a ladder answers a set of samples."""

    samples: int
    images: int
    rungs: tuple[RungScore, ...]
    oracle: Oracle

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(sorted({kind for rung in self.rungs for kind in rung.kinds}))


def evaluate(
    model: Model, samples: Sequence[Sample], budgets: Sequence[int], progress: Report
) -> Evaluation:
    """Ask every question on every rung, greedily, and compare with the known answers.

    Raises:
        InputError: if there are no samples, or some have no answer.
    """
    _require_answers(samples)
    ascending = sorted(set(budgets))
    by_image = _group_by_image(samples)
    outcomes: dict[int, list[bool]] = {budget: [] for budget in ascending}
    asked: list[Sample] = []
    for image, questions in by_image.items():
        encoded = model.encode(image)
        for sample in questions:
            progress("answering", len(asked) / len(samples))
            asked.append(sample)
            for budget in ascending:
                outcomes[budget].append(_answer_is_right(model, encoded, sample, budget))
    rungs = tuple(_score_rung(budget, outcomes[budget], asked) for budget in ascending)
    return Evaluation(len(asked), len(by_image), rungs, _find_oracle(outcomes))


def normalise(text: str) -> str:
    """What counts in a comparison: not case, spacing or a trailing full stop.

    >>> normalise("  The  Red door. ")
    'the red door'
    """
    return " ".join(text.casefold().split()).removesuffix(".").rstrip()


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share; unlike the normal one it is sane near 0 and 1.

    >>> [round(bound, 3) for bound in wilson_interval(8, 10)]
    [0.49, 0.943]
    """
    share = right / total
    spread = _Z95**2 / total
    centre = (share + spread / 2) / (1 + spread)
    half = _Z95 / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def _require_answers(samples: Sequence[Sample]) -> None:
    if not samples:
        raise InputError("no samples to evaluate")
    without = sum(sample.answer is None for sample in samples)
    if without:
        raise InputError(
            f"{without} of {len(samples)} samples have no `answer`; accuracy needs one in each"
        )


def _group_by_image(samples: Sequence[Sample]) -> dict[Path, list[Sample]]:
    grouped: dict[Path, list[Sample]] = {}
    for sample in samples:
        grouped.setdefault(sample.image, []).append(sample)
    return grouped


def is_right(given: str, expected: str) -> bool:
    """Whether an answer is the known one, as `normalise` compares them."""
    return normalise(given) == normalise(expected)


def _answer_is_right(model: Model, encoded: Any, sample: Sample, budget: int) -> bool:
    expected = sample.answer or ""
    # A token holds at least one byte, so whatever runs longer than this is wrong already.
    enough_tokens = len(expected.encode("utf-8")) + _SPARE_TOKENS
    answer = model.generate(encoded, sample.prompt, budget=budget, max_new_tokens=enough_tokens)
    return is_right(answer.text, expected)


def _score_rung(budget: int, right: Sequence[bool], asked: Sequence[Sample]) -> RungScore:
    by_kind: dict[str, list[bool]] = {}
    for sample, outcome in zip(asked, right, strict=True):
        if sample.kind is not None:
            by_kind.setdefault(sample.kind, []).append(outcome)
    kinds = {kind: Score.count(by_kind[kind]) for kind in sorted(by_kind)}
    return RungScore(budget, Score.count(right), kinds)


def _find_oracle(outcomes: Mapping[int, Sequence[bool]]) -> Oracle:
    spent = list(_list_smallest_right(outcomes))
    smallest = min(outcomes)
    tokens = [smallest if budget is None else budget for budget in spent]
    score = Score.count(budget is not None for budget in spent)
    return Oracle(sum(tokens) / len(tokens), score)


def _list_smallest_right(outcomes: Mapping[int, Sequence[bool]]) -> Iterator[int | None]:
    for rights in zip(*outcomes.values(), strict=True):
        yield next((b for b, right in zip(outcomes, rights, strict=True) if right), None)
