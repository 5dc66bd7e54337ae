"""What a loaded model learns from its answers, on a clock that the test turns."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgetok.control import BenchTable, Pace, Policy, Row
from edgetok.control.trace import load_trace, repeat
from edgetok.runtimes.answers.model import Model
from edgetok.runtimes.answers.request import Choice
from edgetok.runtimes.answers.tracing import note_answer


class Turned:
    """A clock that moves by `step` whenever it is read."""

    def __init__(self) -> None:
        self.now, self.step = 0.0, 0.001

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def timed(model: Model, clock: Turned) -> tuple[Model, BenchTable]:
    """The same model on this clock, with a table of what that clock gives at the usual pace."""
    usual = model.runtime, model.processor, model.digest
    photo = np.zeros((8, 8, 3), np.uint8)
    ttft = Model(*usual, clock=clock).generate(photo, "?", budget=4).timings_ms["ttft"]
    rows = (Row(k, ttft, f * ttft, 1.0, 1.0) for k, f in ((4, 1.0), (8, 1.2), (16, 2.0)))
    table = BenchTable(model.digest, "cpu", tuple(rows))
    return Model(*usual, clock=clock, tables=lambda *_: table), table


def test_a_slow_machine_is_given_smaller_rungs_and_replay_repeats_it(
    model: Model, photo: np.ndarray, tmp_path: Path
) -> None:
    clock, trace = Turned(), tmp_path / "trace.jsonl"
    timed_model, table = timed(model, clock)
    limit = 2.1 * table.rows[0].ttft_ms_p95
    for number in range(40):
        clock.step = 0.006 if 5 <= number < 15 else 0.001
        answer = timed_model.generate(photo, "what?", max_ttft_ms=limit, max_new_tokens=1)
        note_answer(trace, timed_model, answer)
    entries = load_trace(trace)
    chosen = [entry.tried[-1].budget for entry in entries]
    assert chosen[0] == 16 and chosen[10] == 4 and len({e.session for e in entries}) == 1

    def begin() -> tuple[Policy, Pace | None]:
        pace = Pace(table)
        return Choice(max_ttft_ms=limit).policy(timed_model.ladder, pace), pace

    assert all(r.same for r in repeat(begin, timed_model.ladder, entries))


def test_an_encoded_image_teaches_nothing_about_whole_answers(
    model: Model, photo: np.ndarray
) -> None:
    clock = Turned()
    timed_model, table = timed(model, clock)
    limit = 2.1 * table.rows[0].ttft_ms_p95
    encoded = timed_model.encode(photo)
    clock.step = 0.02
    for _ in range(3):
        answer = timed_model.generate(encoded, "what?", max_ttft_ms=limit, max_new_tokens=1)
        assert answer.budget == 16
    timed_model.generate(photo, "what?", max_ttft_ms=limit, max_new_tokens=1)
    assert timed_model.generate(photo, "what?", max_ttft_ms=limit).budget == 4


def test_another_limit_begins_anew_and_keeps_the_pace(model: Model, photo: np.ndarray) -> None:
    clock = Turned()
    timed_model, table = timed(model, clock)
    usual = table.rows[0].ttft_ms_p95
    first = timed_model.generate(photo, "?", max_ttft_ms=1.1 * usual, max_new_tokens=1)
    assert first.budget == 4
    # Were the rung of the first limit held, it would not be left yet.
    assert timed_model.generate(photo, "?", max_ttft_ms=9 * usual, max_new_tokens=1).budget == 16
