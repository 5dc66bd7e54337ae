"""Both libraries take the same rows from the cache, and nobody can tell from the answer."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

BEFORE = 1 + len("User: ")  # rows in front of every image
LONG = "what is on the left?"  # its end alone is longer than a chunk
QUESTIONS = ("", "w", "what?", "what is it?", "why?", LONG)


@pytest.fixture(scope="module", params=[False, True], ids=["fp32", "int8"])
def pair(request, library, capi, pairs, tiny_vlm, tmp_path_factory) -> Any:
    recipe = tiny_vlm.Recipe(int8_cache=request.param, slots=160)
    folder = tiny_vlm.write(tmp_path_factory.mktemp("reuse") / "tiny.bundle", recipe)
    return pairs.Pair(library, capi, folder)


def test_any_sequence_of_requests_is_equal(pair: Any, pairs: ModuleType) -> None:
    """Questions about pictures on rungs, some cancelled, some drawn, turns in between."""
    random = np.random.default_rng(17)
    talk, shown, reused = pair.converse(pairs.picture(1), 4), pairs.picture(1), 0
    for number in range(100):
        text = QUESTIONS[random.integers(len(QUESTIONS))]
        pieces = [None, None, 1, 3][random.integers(4)]
        if number % 23 == 0:
            pair.forget()
        if number % 5 == 0:
            shown, budget = pairs.picture(int(random.integers(1, 3))), (4, 8, 16)[number % 3]
        if talk.cpp.tokens_left < 60:
            talk = pair.converse(shown, 4)
        if random.random() < 0.3:
            answer = talk.ask(text, pieces, max_new_tokens=5)
        else:
            heat = float(random.integers(2))
            answer = pair.ask(shown, text, budget, pieces, temperature=heat, seed=number)
        reused += answer.reused > BEFORE + answer.tried[-1]
    assert 20 < reused < 80


def test_the_same_answer_with_and_without(pair: Any, pairs: ModuleType) -> None:
    for text in (LONG, "why?", "why?"):
        again = pair.ask(pairs.picture(1), text, 16)
        pair.forget()
        fresh = pair.ask(pairs.picture(1), text, 16)
        assert (again.tokens, again.kept, fresh.reused) == (fresh.tokens, fresh.kept, 0)
    whole = BEFORE + 16 + len("\nwhy?\nAnswer:")
    assert again.reused == whole - 1  # the last row says what comes next


def test_reuse_saves_time(library, capi, pairs, tiny_vlm, tmp_path) -> None:
    """One row in place of hundreds, on which a question waits."""
    recipe = tiny_vlm.Recipe(prompt_tokens=1500, slots=1600)
    folder = tiny_vlm.write(tmp_path / "long.bundle", recipe)
    model = capi.Model(capi.Bundle(library, folder))
    image = model.image(pairs.picture(1))
    prefills: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(3):
        model.forget()
        for held in (False, True):
            answer = model.generate(image, [2], [9] * 1400, budget=16, max_new_tokens=1)
            assert answer.reused == (1416 if held else 0)
            prefills[held].append(answer.timings["prefill_ms"])
    assert min(prefills[True]) < min(prefills[False]) / 3


def test_a_rejected_prompt_does_no_harm(pair: Any, pairs: ModuleType, capi: ModuleType) -> None:
    pair.ask(pairs.picture(1), "what?", 16)
    image = pair.cpp.image(pairs.picture(1))
    with pytest.raises(capi.Failure, match="text tokens"):
        pair.cpp.generate(image, [2], [9] * 100, budget=16)
    assert pair.ask(pairs.picture(1), "why?", 16).reused > 16


def test_no_answer_begins_with_rows_that_went_wrong(
    library, capi, pairs, tiny_vlm, tmp_path
) -> None:
    folder = tiny_vlm.write(tmp_path / "n.bundle", tiny_vlm.Recipe(nan_budget=8))
    pair = pairs.Pair(library, capi, folder)
    reused = [pair.ask(pairs.picture(1), "hm", budget).reused for budget in (8, 8, 4, 4, 8, 4)]
    assert reused[:3] == [0, 0, 0]
    assert reused[3] > BEFORE + 4
    assert reused[5] == 0
