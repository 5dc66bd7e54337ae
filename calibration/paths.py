"""Paths: policies from the safest, which always asks the full rung, to the boldest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from edgetok import names
from edgetok.calibration.fit import find_columns, fit
from edgetok.calibration.outcomes import Floats, Outcomes
from edgetok.rules import Rule, Scorer

_STEPS = 40
_ENTERED = (0.5, 0.8)  # shares of questions that a rung is tried for where its answer is checked
_BOUNDLESS = 1e300


@dataclass(frozen=True, slots=True)
class Step:
    """One policy of a path: the small rungs it may try, and its two thresholds."""

    rungs: tuple[int, ...]
    enter_at_most: float = 0.0
    accept_at_most: float = 0.0


@dataclass(frozen=True, slots=True)
class Path:
    """Policies of one kind, from the safest to the boldest, fixed before they are tested.

    Args:
        name: for people.
        enter, accept: a scorer per rung below the full one.
        enter_unseen, accept_unseen: [n, R - 1] scores of the questions the scorers were learned
            from, each by a model that had not seen it.
    """

    name: str
    enter: tuple[Scorer, ...]
    accept: tuple[Scorer, ...]
    enter_unseen: Floats
    accept_unseen: Floats
    steps: tuple[Step, ...]

    def scores(self, outcomes: Outcomes) -> tuple[Floats, Floats]:
        """What the scorers say of other questions: [n, R - 1] to enter and to accept."""
        enter = [outcomes.scores(scorer) for scorer in self.enter]
        accept = [outcomes.scores(scorer, rung) for rung, scorer in enumerate(self.accept)]
        return np.stack(enter, 1), np.stack(accept, 1)

    def rules(self, step: Step, budgets: tuple[int, ...]) -> list[Rule]:
        """A step as a manifest spells it."""
        return [
            Rule(
                budget=budgets[rung],
                enter=self.enter[rung],
                enter_at_most=step.enter_at_most,
                accept=self.accept[rung],
                accept_at_most=step.accept_at_most,
            )
            for rung in step.rungs
        ]


@dataclass(frozen=True, slots=True)
class Spent:
    """What a policy does with n questions.

    Args:
        rung: [n] whose answer is taken.
        tokens: [n] visual tokens of all rungs that were tried.
        ms: [n] time of them.
    """

    rung: npt.NDArray[np.intp]
    tokens: Floats
    ms: Floats

    def losses(self, outcomes: Outcomes) -> Floats:
        """[n] of 0 and 1."""
        return outcomes.lost[np.arange(len(outcomes)), self.rung].astype(np.float64)


def follow(step: Step, enter: Floats, accept: Floats, outcomes: Outcomes) -> Spent:
    """Try the rungs in turn until an answer is taken, as `control.Certified` does it live."""
    full = len(outcomes.budgets) - 1
    rung = np.full(len(outcomes), full)
    tokens, ms = np.zeros(len(outcomes)), np.zeros(len(outcomes))
    open_ = np.ones(len(outcomes), bool)
    for r in (*step.rungs, full):
        tried = open_ & (r == full or enter[:, min(r, full - 1)] <= step.enter_at_most)
        tokens += tried * outcomes.budgets[r]
        ms += tried * outcomes.ms[:, r]
        taken = tried & (r == full or accept[:, min(r, full - 1)] <= step.accept_at_most)
        rung[taken] = r
        open_ &= ~taken
    return Spent(rung, tokens, ms)


def propose(outcomes: Outcomes) -> Iterator[Path]:
    """Paths of every kind, learned from these questions."""
    small = range(len(outcomes.budgets) - 1)
    yield _one_rung(outcomes)
    signals = sorted(outcomes.records[0].signals)
    shared = [s for s in signals if all(s in r.signals for r in outcomes.records)]
    kinds = {f"by {s}": ([s], False) for s in shared}
    kinds |= {"by the question": ([], True), "by image and question": (shared, True)}
    learned = {}
    for name, (columns, with_tokens) in kinds.items():
        learned[name] = _learn(outcomes, columns, with_tokens, answers=False)
        yield _predicting(name, outcomes, *learned[name])
    checks = {
        "checked by its confidence": _learn(outcomes, [*names.ANSWER_SIGNALS], False, answers=True),
        "checked by all": _learn(outcomes, [*shared, *names.ANSWER_SIGNALS], True, answers=True),
    }
    guess = learned["by image and question"]
    for name, check in checks.items():
        for count in (1, 2):
            for rungs in combinations(small, count):
                yield _checking(name, outcomes, rungs, check)
                yield from _predicting_and_checking(name, outcomes, rungs, guess, check)


_Learned = tuple[tuple[Scorer, ...], Floats]


def _learn(outcomes: Outcomes, signals: list[str], with_tokens: bool, *, answers: bool) -> _Learned:
    """A scorer per small rung, of its losses."""
    columns = find_columns(outcomes, signals, with_tokens=with_tokens)
    found = [
        fit(columns, outcomes, outcomes.lost[:, rung], rung if answers else None)
        for rung in range(len(outcomes.budgets) - 1)
    ]
    return tuple(scorer for scorer, _ in found), np.stack([scores for _, scores in found], 1)


def _always(outcomes: Outcomes) -> _Learned:
    """Scorers that let everything pass at the threshold of 0."""
    small = len(outcomes.budgets) - 1
    return (Scorer(),) * small, np.zeros((len(outcomes), small))


def _one_rung(outcomes: Outcomes) -> Path:
    """Every question on the same rung, each smaller than the one before."""
    rungs = reversed(range(len(outcomes.budgets) - 1))
    scorers, scores = _always(outcomes)
    steps = (Step(()), *(Step((rung,)) for rung in rungs))
    return Path("one rung for all", scorers, scorers, scores, scores, steps)


def _predicting(name: str, outcomes: Outcomes, enter: tuple[Scorer, ...], unseen: Floats) -> Path:
    """The smallest rung of which no loss is expected, its answer taken as it is."""
    scorers, scores = _always(outcomes)
    rungs = tuple(range(len(outcomes.budgets) - 1))
    steps = (Step(()), *(Step(rungs, threshold) for threshold in _grid(unseen)))
    return Path(f"predicted {name}", enter, scorers, unseen, scores, steps)


def _checking(name: str, outcomes: Outcomes, rungs: tuple[int, ...], check: _Learned) -> Path:
    """Small rungs first, whose answers are taken if they are sure enough."""
    scorers, scores = _always(outcomes)
    accept, unseen = check
    grid = _grid(unseen[:, list(rungs)])
    steps = (Step(()), *(Step(rungs, 0.0, threshold) for threshold in grid))
    tried = " and ".join(str(outcomes.budgets[rung]) for rung in rungs)
    return Path(f"{tried} first, {name}", scorers, accept, scores, unseen, steps)


def _predicting_and_checking(
    name: str, outcomes: Outcomes, rungs: tuple[int, ...], guess: _Learned, check: _Learned
) -> Iterator[Path]:
    """The same, where a rung is only tried for questions it may well answer."""
    for share in _ENTERED:
        limit = float(np.quantile(guess[1][:, list(rungs)], share))
        grid = _grid(check[1][:, list(rungs)])
        steps = (Step(()), *(Step(rungs, limit, threshold) for threshold in grid))
        tried = " and ".join(str(outcomes.budgets[rung]) for rung in rungs)
        title = f"{tried} first if predicted ({share:.0%}), {name}"
        yield Path(title, guess[0], check[0], guess[1], check[1], steps)


def _grid(scores: Floats) -> list[float]:
    """Thresholds that let a growing share of the questions pass, up to all."""
    found = np.quantile(scores, np.linspace(0, 1, _STEPS, endpoint=False)[1:])
    return [*sorted(set(found.tolist())), _BOUNDLESS]
