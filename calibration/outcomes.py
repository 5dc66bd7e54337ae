"""Outcomes: records as arrays, in which every policy can be tried without asking again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgetok import names
from edgetok.calibration.evaluate import normalise
from edgetok.calibration.records import Record
from edgetok.errors import InputError
from edgetok.rules import Loss, Scorer

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What each of n questions would cost and lose on each of R rungs, smallest first.

    Args:
        records: the questions.
        budgets: visual tokens of the rungs; the last one is the full rung.
        lost: [n, R] whether the rung's answer is a loss; never on the full rung.
        right: [n, R] whether it is the known answer; all False where none is known.
        ms: [n, R] from the encoded image to the end of the answer.
        images: [n] number of the image.
    """

    records: tuple[Record, ...]
    budgets: tuple[int, ...]
    lost: Bools
    right: Bools
    ms: Floats
    images: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def one_question_each(self) -> bool:
        """Whether no image has two questions, so that questions are independent."""
        return len(set(self.images.tolist())) == len(self)

    def take(self, chosen: Bools) -> Outcomes:
        """The questions at which `chosen` [n] is true."""
        records = tuple(r for r, c in zip(self.records, chosen, strict=True) if c)
        arrays = self.lost[chosen], self.right[chosen], self.ms[chosen]
        return Outcomes(records, self.budgets, *arrays, self.images[chosen])

    def with_records(self, records: Sequence[Record]) -> Outcomes:
        """The same outcomes of questions of which something else is known."""
        return replace(self, records=tuple(records))

    def folds(self, count: int) -> list[Bools]:
        """[n] bool of each of `count` parts; questions about one image are in the same part."""
        images = np.random.default_rng(0).permutation(np.unique(self.images))
        return [np.isin(self.images, part) for part in np.array_split(images, count)]

    def scores(self, scorer: Scorer, rung: int | None = None) -> Floats:
        """What a scorer says of each question [n]; of its answer too if a rung is given."""
        budget = None if rung is None else self.budgets[rung]
        return np.array([_score(scorer, record, budget) for record in self.records])

    def differing(self, rung: npt.NDArray[np.intp]) -> Floats:
        """[n] of 0 and 1: whether the answer of `rung` [n] is another than the full rung's."""
        full = self.budgets[-1]
        pairs = zip(self.records, rung.tolist(), strict=True)
        texts = [(r.rungs[self.budgets[at]].text, r.rungs[full].text) for r, at in pairs]
        return np.array([float(normalise(a) != normalise(b)) for a, b in texts])

    def by_unit(self, values: Floats) -> Floats:
        """Mean over the questions of each image: [n] -> [images]."""
        _, unit = np.unique(self.images, return_inverse=True)
        return np.asarray(np.bincount(unit, values) / np.bincount(unit))


def collect(records: Sequence[Record], budgets: Sequence[int], loss: Loss) -> Outcomes:
    """Count the losses of every rung.

    Raises:
        InputError: if there are no records, answers or signals are missing or not finite, or the
            full rung is never right, so that nothing could be lost.
    """
    if not records:
        raise InputError("no samples to calibrate on")
    _require_finite(records)
    ordered = tuple(sorted(budgets))
    right = np.array([[r.rungs[b].right is True for b in ordered] for r in records])
    if loss == "wrong":
        _require_labels(records, right)
        lost = right[:, -1:] & ~right
    else:
        texts = [[normalise(r.rungs[b].text) for b in ordered] for r in records]
        lost = np.array([[text != row[-1] for text in row] for row in texts])
    ms = np.array([[r.rungs[b].ms for b in ordered] for r in records])
    _, images = np.unique([r.image for r in records], return_inverse=True)
    return Outcomes(tuple(records), ordered, lost, right, ms, images.astype(np.int64))


def _score(scorer: Scorer, record: Record, budget: int | None) -> float:
    answer = {} if budget is None else record.rungs[budget].signals
    return scorer.score(record.signals | answer, record.question)


def _require_labels(records: Sequence[Record], right: Bools) -> None:
    unknown = sum(answer.right is None for r in records for answer in r.rungs.values())
    if unknown:
        missing = sum(any(a.right is None for a in r.rungs.values()) for r in records)
        raise InputError(unlabelled(missing, len(records)))
    if not right[:, -1].any():
        raise InputError(
            f"the full rung answers none of {len(records)} samples right, so nothing can be lost; "
            "look at the answers, and at how `answer` is spelled"
        )


def unlabelled(count: int, total: int) -> str:
    """What is the matter with samples without answers."""
    return (
        f"{count} of {total} samples have no `answer`, so nobody knows what is wrong; "
        "give answers, or --loss differs to count answers other than the full rung's"
    )


def _require_finite(records: Sequence[Record]) -> None:
    for number, record in enumerate(records, 1):
        answers = [(n, v) for a in record.rungs.values() for n, v in a.signals.items()]
        for name, value in [*record.signals.items(), *answers]:
            if not math.isfinite(value):
                where = "the answer" if name in names.ANSWER_SIGNALS else "the image"
                raise InputError(
                    f"sample {number}: {name} of {where} is {value}; `edgetok verify` the bundle"
                )
