"""Learning how many visual tokens an image needs from its thumbnail, as plain numbers."""

from __future__ import annotations

import msgspec
import numpy as np

from edgetok import names
from edgetok.calibration.outcomes import Floats, Outcomes
from edgetok.control.thumbnail import CELLS
from edgetok.errors import IncompatibleError
from edgetok.rules import Thumbnail

_PENALTY = 300.0  # of a ridge; columns have a spread of 1
_FOLDS = 5


def add_complexity(design: Outcomes, test: Outcomes) -> tuple[Thumbnail | None, Outcomes, Outcomes]:
    """Give both halves the signal of a regression that the first half learns.

    A question of the first half is given what a regression predicts that has not seen its image,
    as every question will be from then on. Nothing is added where thumbnails are missing, or all
    images need the same.

    Raises:
        IncompatibleError: if scikit-learn is missing.
    """
    needed = list_needed(design)
    records = (*design.records, *test.records)
    known = all(len(record.thumbnail) == 2 * CELLS * CELLS for record in records)
    if not known or len(set(needed.tolist())) < 2 or len(set(design.images.tolist())) < _FOLDS:
        return None, design, test
    cells = np.array([record.thumbnail for record in design.records])
    thumbnail = _fit(cells, needed)
    unseen = np.zeros(len(design))
    for held in design.folds(_FOLDS):
        learned = _fit(cells[~held], needed[~held])
        unseen[held] = [learned.complexity(row) for row in cells[held].tolist()]
    seen = [thumbnail.complexity(record.thumbnail) for record in test.records]
    return thumbnail, _with_signal(design, unseen.tolist()), _with_signal(test, seen)


def list_needed(outcomes: Outcomes) -> Floats:
    """[n] base-2 logarithm of the smallest rung from which on nothing is lost any more.

    The monotone closure of Matryoshka multimodal models' oracle (arXiv 2405.17430): a small rung
    that is right where a larger one is not was lucky.
    """
    lost_from = np.logical_or.accumulate(outcomes.lost[:, ::-1], 1)[:, ::-1]
    smallest = np.argmin(lost_from, 1)  # the first False; the full rung never loses
    found: Floats = np.log2(np.array(outcomes.budgets, np.float64))[smallest]
    return found


def _fit(cells: Floats, needed: Floats) -> Thumbnail:
    """A ridge regression on columns of one spread, spelled as a sum of the raw numbers."""
    try:
        from sklearn.linear_model import Ridge
    except ImportError:
        raise IncompatibleError(
            "learning a controller needs scikit-learn; pip install 'edgetok[calibrate]'"
        ) from None
    mean, spread = cells.mean(0), cells.std(0)
    spread[spread == 0] = 1.0
    ridge = Ridge(alpha=_PENALTY).fit((cells - mean) / spread, needed)
    weights = ridge.coef_ / spread
    bias = float(ridge.intercept_ - (weights * mean).sum())
    return Thumbnail(cells=CELLS, bias=bias, weights=[float(weight) for weight in weights])


def _with_signal(outcomes: Outcomes, values: list[float]) -> Outcomes:
    pairs = zip(outcomes.records, values, strict=True)
    records = [
        msgspec.structs.replace(r, signals=r.signals | {names.SIGNAL_COMPLEXITY: value})
        for r, value in pairs
    ]
    return outcomes.with_records(records)
