"""Logistic regression of losses on what a controller sees, as plain numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgetok.calibration.outcomes import Bools, Floats, Outcomes
from edgetok.errors import IncompatibleError
from edgetok.rules import Scorer

_FEWEST_USES = 8  # of a token before it gets a weight
_MOST_TOKENS = 256
_FOLDS = 5
_STRENGTH = 0.3  # inverse of the penalty; columns have a spread of 1


@dataclass(frozen=True, slots=True)
class Columns:
    """What the regression sees: signals by name, length of the question, tokens that occur."""

    signals: tuple[str, ...]
    tokens: tuple[int, ...]

    def matrix(self, outcomes: Outcomes, rung: int | None) -> Floats:
        """[n, columns] of the questions, and of a rung's answers where one is given."""
        return np.array([self._row(record, outcomes, rung) for record in outcomes.records])

    def _row(self, record: Any, outcomes: Outcomes, rung: int | None) -> list[float]:
        answer = {} if rung is None else record.rungs[outcomes.budgets[rung]].signals
        seen = record.signals | answer
        asked = set(record.question)
        return [
            *(float(seen[name]) for name in self.signals),
            float(len(record.question)),
            *(float(token in asked) for token in self.tokens),
        ]

    def scorer(self, weights: Sequence[float], bias: float) -> Scorer:
        """The same sum as numbers of a manifest."""
        count = len(self.signals)
        return Scorer(
            bias=bias,
            signals=dict(zip(self.signals, weights[:count], strict=True)),
            per_token=weights[count],
            tokens=[(t, w) for t, w in zip(self.tokens, weights[count + 1 :], strict=True) if w],
        )


def find_columns(outcomes: Outcomes, signals: Sequence[str], *, with_tokens: bool) -> Columns:
    """The tokens that occur often enough to learn from, the most frequent ones."""
    uses = Counter(token for record in outcomes.records for token in set(record.question))
    often = [t for t, n in uses.most_common(_MOST_TOKENS) if _FEWEST_USES <= n < len(outcomes)]
    return Columns(tuple(signals), tuple(sorted(often)) if with_tokens else ())


def fit(
    columns: Columns, outcomes: Outcomes, lost: Bools, rung: int | None
) -> tuple[Scorer, Floats]:
    """A scorer of losses [n], and scores [n] that it would give questions it has not learned.

    Where all or nothing is lost there is nothing to learn, and the scorer knows nothing.

    Raises:
        IncompatibleError: if scikit-learn is missing.
    """
    fewest = min(int(lost.sum()), int((~lost).sum()))
    if fewest < _FOLDS:
        return Scorer(), np.zeros(len(outcomes))
    model = _regression()
    matrix = columns.matrix(outcomes, rung)
    unseen = _cross_scores(model, matrix, lost, outcomes.folds(_FOLDS))
    model.fit(matrix, lost)
    scale, regression = model.steps[0][1], model.steps[1][1]
    weights = regression.coef_[0] / scale.scale_
    bias = float(regression.intercept_[0] - (weights * scale.mean_).sum())
    return columns.scorer([float(w) for w in weights], bias), unseen


def _regression() -> Any:
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        raise IncompatibleError(
            "learning a controller needs scikit-learn; pip install 'edgetok[calibrate]'"
        ) from None
    return make_pipeline(StandardScaler(), LogisticRegression(C=_STRENGTH, max_iter=1000))


def _cross_scores(model: Any, matrix: Floats, lost: Bools, folds: Sequence[Bools]) -> Floats:
    """Each question scored by a model that saw no question of its fold."""
    scores = np.zeros(len(lost))
    for held in folds:
        if len(set(lost[~held].tolist())) > 1:
            scores[held] = model.fit(matrix[~held], lost[~held]).decision_function(matrix[held])
    return scores
