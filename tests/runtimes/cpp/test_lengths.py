"""Both libraries run prompts and chunks in the same graphs, the ones that cost least."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

TEMPLATE = 1 + len("User: ") + len("\n") + len("\nAnswer:")
SHORTER, LONGEST = (TEMPLATE + 2, TEMPLATE + 9), TEMPLATE + 30
TEXT = "abcdefghijklmnopqrstuvwxyzabcd"  # a character is a token


def recipe_of(tiny_vlm: ModuleType, **options: Any) -> Any:
    sizes = {"prompt_tokens": LONGEST, "slots": 160, "shorter": SHORTER, "chunks": (8, 32)}
    return tiny_vlm.Recipe(**(sizes | options))


@pytest.fixture(scope="module", params=[False, True], ids=["fp32", "int8"])
def pair(request, library, capi, pairs, tiny_vlm, tmp_path_factory) -> Any:
    recipe = recipe_of(tiny_vlm, int8_cache=request.param)
    folder = tiny_vlm.write(tmp_path_factory.mktemp("lengths") / "tiny.bundle", recipe)
    return pairs.Pair(library, capi, folder)


@pytest.mark.parametrize("characters", [0, 2, 3, 9, 10, 30])
def test_answers_at_the_ends_of_graphs_are_equal(
    pair: Any, pairs: ModuleType, characters: int
) -> None:
    for budget in (4, 16):
        pair.forget()
        assert pair.ask(pairs.picture(1), TEXT[:characters], budget).reused == 0


@pytest.mark.parametrize(
    ("spoilt", "characters"),
    [(SHORTER[0], (0, 2)), (SHORTER[1], (3, 9)), (LONGEST, (10, 30))],
)
def test_the_shortest_graph_with_room_is_what_runs(
    library, capi, pairs, tiny_vlm, tmp_path, spoilt: int, characters: tuple[int, int]
) -> None:
    """Graphs of one length give no logits: prompts of just those lengths have no answer."""
    folder = tiny_vlm.write(tmp_path / "n.bundle", recipe_of(tiny_vlm, nan_tokens=spoilt))
    pair, low, high = pairs.Pair(library, capi, folder), *characters
    for count in {max(0, low - 1), low, high, min(30, high + 1)}:
        pair.forget()
        answer = pair.ask(pairs.picture(1), TEXT[:count], 8)
        assert (answer.stop == "numeric") == (low <= count <= high), count


def test_a_prompt_that_no_graph_has_room_for_is_refused(
    pair: Any, pairs: ModuleType, capi: ModuleType
) -> None:
    image = pair.cpp.image(pairs.picture(1))
    prompt = pair.python.processor.encode(TEXT + "x")
    with pytest.raises(capi.Failure, match=f"at most {LONGEST} fit; shorten it by 1"):
        pair.cpp.generate(image, prompt.before, prompt.after, prompt.question, budget=4)


def test_any_sequence_of_questions_is_equal(pair: Any, pairs: ModuleType) -> None:
    """Of all lengths, after one another: chunks of both sizes, steps, and prompts anew."""
    random, reused = np.random.default_rng(5), 0
    pair.forget()
    for number in range(60):
        start, count = int(random.integers(3)), int(random.integers(31))
        text, shown = TEXT[start : start + count], pairs.picture(1 + number // 20)
        reused += pair.ask(shown, text, (4, 16)[number % 7 == 0]).reused > 4
    assert 20 < reused < 60
