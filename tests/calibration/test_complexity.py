"""Complexity of a thumbnail: cells against loops, a regression that never sees its own answer."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetok import names
from edgetok.calibration.certify import Aim, certify
from edgetok.calibration.complexity import add_complexity, list_needed
from edgetok.calibration.outcomes import Outcomes, collect
from edgetok.calibration.records import Record, RungAnswer
from edgetok.control.thumbnail import CELLS, describe
from edgetok.errors import UsageError
from edgetok.rules import Thumbnail

BUDGETS = (16, 64, 576)


def draw_records(count: int, seed: int) -> list[Record]:
    """Pictures whose lower right cell is busy need more tokens; no other signal tells."""
    rng = np.random.default_rng(seed)
    records = []
    for number in range(count):
        cells = rng.normal(0, 1, 2 * CELLS * CELLS)
        busy = cells[-1] > 0.5
        lost = {16: busy and rng.random() < 0.95, 64: busy and rng.random() < 0.02, 576: False}
        rungs = {
            b: RungAnswer("no" if gone else "yes", not gone, {"answer_margin": 0.5}, 10.0 + b)
            for b, gone in lost.items()
        }
        rungs = {
            b: msgspec.structs.replace(a, signals=a.signals | {"answer_log_probability": -0.5})
            for b, a in rungs.items()
        }
        records.append(
            Record(
                f"{seed}-{number}", f"{seed}-{number}", None, {}, [5], 1.0, rungs, cells.tolist()
            )
        )
    return records


def halves(count: int = 400) -> tuple[Outcomes, Outcomes]:
    return tuple(collect(draw_records(count, seed), BUDGETS, "wrong") for seed in (0, 1))  # type: ignore[return-value]


@pytest.mark.parametrize("shape", [(1, 3, 16, 24), (2, 3, 19, 8)])
def test_cells_are_means_and_deviations_of_grey(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
    height, width = shape[2] // CELLS, shape[3] // CELLS
    means, spreads = [], []
    for row in range(CELLS):
        for column in range(CELLS):
            grey = [
                sum(float(pixels[0, c, y, x]) for c in range(3)) / 3
                for y in range(row * height, (row + 1) * height)
                for x in range(column * width, (column + 1) * width)
            ]
            mean = sum(grey) / len(grey)
            means.append(mean)
            spreads.append(math.sqrt(sum((g - mean) ** 2 for g in grey) / len(grey)))
    assert describe(pixels) == pytest.approx([*means, *spreads], abs=1e-4)


def test_a_picture_without_cells_is_refused() -> None:
    with pytest.raises(UsageError, match="no 8 x 8 cells"):
        describe(np.zeros((1, 3, 7, 20), np.float32))


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8), st.data())
@settings(deadline=None)
def test_a_damaged_cell_is_the_most_complex_picture(
    cells: list[float], data: st.DataObject
) -> None:
    thumbnail = Thumbnail(cells=1, bias=1.0, weights=[2.0] * len(cells))
    assert thumbnail.complexity(cells) == pytest.approx(1 + 2 * sum(cells), abs=1e-9)
    at = data.draw(st.integers(0, len(cells) - 1))
    for bad in (math.nan, math.inf, -math.inf):
        assert thumbnail.complexity([*cells[:at], bad, *cells[at + 1 :]]) == math.inf
    assert thumbnail.complexity(cells[1:]) == math.inf


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=20))
@settings(deadline=None)
def test_needed_is_the_rung_from_which_on_nothing_is_lost(lost: list[tuple[bool, bool]]) -> None:
    outcomes = collect(draw_records(len(lost), 0), BUDGETS, "wrong")
    table = np.array([[*row, False] for row in lost])
    found = list_needed(
        Outcomes(outcomes.records, BUDGETS, table, table, outcomes.ms, outcomes.images)
    )
    for row, bits in zip(table.tolist(), found.tolist(), strict=True):
        assert bits == math.log2(next(b for i, b in enumerate(BUDGETS) if not any(row[i:])))


def test_a_question_is_predicted_without_its_own_answer() -> None:
    design, test = halves()
    _, before, _ = add_complexity(design, test)
    flipped = design.lost.copy()
    flipped[7] = [not flipped[7, 0], flipped[7, 0], False]
    changed = Outcomes(design.records, BUDGETS, flipped, design.right, design.ms, design.images)
    _, after, _ = add_complexity(changed, test)
    signals = [
        [r.signals[names.SIGNAL_COMPLEXITY] for r in outcomes.records]
        for outcomes in (before, after)
    ]
    assert signals[0][7] == signals[1][7]
    assert sum(a != b for a, b in zip(*signals, strict=True)) > 200


def test_the_numbers_of_the_manifest_are_the_regression() -> None:
    design, test = halves()
    thumbnail, _, seen = add_complexity(design, test)
    assert thumbnail is not None
    values = [record.signals[names.SIGNAL_COMPLEXITY] for record in seen.records]
    assert values == [thumbnail.complexity(record.thumbnail) for record in test.records]
    assert np.corrcoef(values, list_needed(test))[0, 1] > 0.5


def test_certified_policy_asks_the_thumbnail_where_nothing_else_tells() -> None:
    found = certify(draw_records(1200, 3), BUDGETS, Aim(risk=0.05), "d" * 64, "ort")
    assert found.controller is not None and found.controller.thumbnail is not None
    assert any(names.SIGNAL_COMPLEXITY in rule.enter.signals for rule in found.controller.rules)
    assert all(names.SIGNAL_COMPLEXITY in case.signals for case in found.controller.cases)


def test_records_without_thumbnails_are_calibrated_without_them() -> None:
    records = [msgspec.structs.replace(r, thumbnail=[]) for r in draw_records(400, 3)]
    found = certify(records, BUDGETS, Aim(risk=0.3), "d" * 64, "ort")
    assert found.controller is not None and found.controller.thumbnail is None
