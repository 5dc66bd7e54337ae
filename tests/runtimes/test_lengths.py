"""Prompts and chunks run in the graph that costs least, and nobody can tell from the answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain, combinations_with_replacement
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgetok.errors import BundleError, InputError
from edgetok.runtimes.answers.model import Model
from edgetok.runtimes.load import load
from edgetok.runtimes.runtime.cache import CALL_COST, STEP_COST, choose_chunks, place_chunks
from edgetok.runtimes.runtime.runtime import BundleRuntime

TEMPLATE = 1 + len("User: ") + len("\n") + len("\nAnswer:")
SHORTER = (TEMPLATE + 2, TEMPLATE + 9)
LONGEST = TEMPLATE + 30


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (10, 12, 3), np.uint8)


@pytest.fixture(scope="module", params=[False, True], ids=["fp32", "int8"])
def pair(
    request: pytest.FixtureRequest, tiny_vlm: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Model, Model]:
    """A bundle with graphs of three lengths and two chunks, and one with a graph of each."""
    folder = tmp_path_factory.mktemp("lengths")
    sizes = {"prompt_tokens": LONGEST, "slots": 160, "int8_cache": request.param}
    several = tiny_vlm.Recipe(shorter=SHORTER, chunks=(8, 32), **sizes)
    paths = [
        tiny_vlm.write(folder / "several.bundle", several),
        tiny_vlm.write(folder / "single.bundle", tiny_vlm.Recipe(**sizes)),
    ]
    return load(paths[0], threads=1), load(paths[1], threads=1)


@pytest.fixture
def runs(pair: tuple[Model, Model], monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often each graph of a prompt or chunk has run, by its file."""
    runtime, counts = pair[0].runtime, Counter[str]()
    assert isinstance(runtime, BundleRuntime)
    prompts = [runtime._graphs._find_all("prefill", rung).values() for rung in runtime.ladder]
    for graph in (*chain(*prompts), *runtime._graphs.extend.values()):

        def count(graph=graph, run=graph.run) -> None:
            counts[Path(graph.file).stem] += 1
            run()

        monkeypatch.setattr(graph, "run", count)
    yield counts


def test_a_ladder_says_which_lengths_it_has(pair: tuple[Model, Model]) -> None:
    assert [rung.shorter for rung in pair[0].ladder] == [SHORTER] * 3
    assert [rung.shorter for rung in pair[1].ladder] == [()] * 3


@pytest.mark.parametrize(
    ("characters", "tokens"),
    [
        (0, SHORTER[0]),
        (1, SHORTER[0]),
        (2, SHORTER[0]),
        (3, SHORTER[1]),
        (9, SHORTER[1]),
        (10, LONGEST),
        (30, LONGEST),
    ],
)
@pytest.mark.parametrize("budget", [4, 16])
def test_a_prompt_runs_in_the_shortest_graph_that_has_room(
    pair: tuple[Model, Model], runs: Counter[str], characters: int, tokens: int, budget: int
) -> None:
    """To the row: a character of the question is a token."""
    question = "abcdefghijklmnopqrstuvwxyzabcd"[:characters]
    for model in pair:
        model.forget()
    logits = [model.first_logits(picture(1), question, budget=budget) for model in pair]
    np.testing.assert_allclose(logits[0], logits[1], atol=2e-5)
    longest = f"prefill_{budget}"
    assert runs == {longest if tokens == LONGEST else f"{longest}_{tokens}": 1}
    for model in pair:
        model.forget()
    answers = [model.generate(picture(1), question, budget=budget) for model in pair]
    assert answers[0].token_ids == answers[1].token_ids
    assert answers[0].prompt_tokens == TEMPLATE + characters


def test_a_prompt_that_no_graph_has_room_for_is_refused(pair: tuple[Model, Model]) -> None:
    told = []
    for model in pair:
        with pytest.raises(InputError, match=f"at most {LONGEST} fit; shorten it by 1") as error:
            model.generate(picture(1), "x" * 31, budget=4)
        told.append(str(error.value))
    assert told[0] == told[1]


def test_rows_that_no_graph_has_room_for_are_refused(pair: tuple[Model, Model]) -> None:
    runtime = pair[0].runtime
    rung, width = runtime.ladder.smallest, runtime.manifest.text.hidden
    for rows in (0, rung.prefill_tokens + 1):
        with pytest.raises(InputError, match=rf"room for 1\.\.{rung.prefill_tokens}"):
            runtime.prefill(rung, np.ones((rows, width), np.float32))


def test_a_long_second_question_is_one_long_chunk(
    pair: tuple[Model, Model], runs: Counter[str]
) -> None:
    image, long = pair[0].encode(picture(1)), "abcdefghijklmnopqrst"
    for model in pair:
        model.forget()
        model.generate(image if model is pair[0] else picture(1), "zz", budget=16)
    runs.clear()
    answers = [
        model.generate(image if model is pair[0] else picture(1), long, budget=16) for model in pair
    ]
    assert answers[0].token_ids == answers[1].token_ids
    assert answers[0].reused_rows >= 16
    assert runs == {"extend": 1}


@pytest.mark.parametrize("rows", [9, 13, 17, 33, 40, 47, 69])
@pytest.mark.parametrize("start", [1, 8])
def test_extending_equals_a_longer_prefill(
    pair: tuple[Model, Model], rows: int, start: int
) -> None:
    keys = [100 + i % 50 for i in range(rows)]
    several, single = (model.runtime for model in pair)
    embeds = np.concatenate([single.embed(keys[at : at + 20]).copy() for at in range(0, rows, 20)])
    single.prefill(single.ladder.largest, embeds[:start], keys[:start])
    for key in keys[start:]:
        whole = single.step(key).copy()
    several.prefill(several.ladder.largest, embeds[:start], keys[:start])
    np.testing.assert_allclose(several.extend(embeds, start, keys), whole, atol=2e-5)
    np.testing.assert_allclose(several.step(50), single.step(50), atol=2e-5)


def brute(start: int, stop: int, overlapping: bool, steps: int) -> int:
    """The least cost of any set of chunks of 16 and 64, and steps for what they leave."""
    rows, costs = stop - start, []
    for count in range(rows // 16 + 2):
        for widths in combinations_with_replacement((16, 64), count):
            left = rows - sum(widths)
            cost = CALL_COST * count + sum(widths)
            if 0 <= left <= steps:
                costs.append(cost + STEP_COST * left)
            if left < 0 and overlapping and max(widths) <= stop and rows - sum(widths[:-1]) > 0:
                costs.append(cost)
    return min(costs)


@pytest.mark.parametrize("overlapping", [True, False])
@pytest.mark.parametrize("start", [1, 30, 100])
def test_no_other_chunks_cost_less(start: int, overlapping: bool) -> None:
    for rows in range(1, 150):
        stop = start + rows
        found = choose_chunks(start, stop, (16, 64), overlapping=overlapping, steps=rows)
        assert found.cost == brute(start, stop, overlapping, rows), rows
        covered = set(range(stop - found.steps, stop))
        for at, width in place_chunks(start, stop - found.steps, found.widths):
            assert at >= 0
            covered |= set(range(at, at + width))
        assert set(range(start, stop)) <= covered
        assert max(covered) == stop - 1


def test_rows_of_an_image_are_never_steps() -> None:
    found = choose_chunks(100, 117, (16, 64), overlapping=True, steps=0)
    assert (found.widths, found.steps) == ((16, 16), 0)


def test_a_longest_graph_that_is_too_short_is_refused(tiny_vlm: ModuleType, tmp_path: Path) -> None:
    """A single graph of fewer rows than the manifest promises."""
    import json

    path = tiny_vlm.write(tmp_path / "tiny.bundle", tiny_vlm.Recipe(prompt_tokens=20))
    manifest = json.loads((path / "manifest.json").read_text())
    stage = next(s for s in manifest["stages"] if s["stage"] == "prefill")
    stage["inputs"][0]["shape"][1] -= 1
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"embeds is float32 \[1, 23, 32\], not float32 \[1, 24"):
        load(path)
