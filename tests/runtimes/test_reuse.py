"""What the cache holds already is not computed again, and nobody can tell from the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgetok.bundle.manifest import Flavour
from edgetok.bundle.reader import Bundle
from edgetok.errors import EdgetokError, InputError, UsageError
from edgetok.kv.stores.kivi import RING_ROWS
from edgetok.runtimes.answers.model import Model
from edgetok.runtimes.device import machine
from edgetok.runtimes.load import load
from edgetok.runtimes.runtime.cache import HeldRows, choose_chunks, place_chunks
from edgetok.runtimes.runtime.runtime import BundleRuntime

BEFORE = 1 + len("User: ")  # rows in front of every image
LONG = "what is on the left?"  # its end alone is longer than a chunk


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (10, 12, 3), np.uint8)


@pytest.fixture(scope="module", params=[False, True], ids=["fp32", "int8"])
def pair(
    request: pytest.FixtureRequest, tiny_vlm: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Model, Model]:
    """A model that reuses what it can, and one that is made to forget before each answer."""
    recipe = tiny_vlm.Recipe(int8_cache=request.param, slots=160)
    path = tiny_vlm.write(tmp_path_factory.mktemp("reuse") / "tiny.bundle", recipe)
    return load(path, threads=1), load(path, threads=1)


def both(pair: tuple[Model, Model], image: object, question: str, budget: int) -> tuple[int, int]:
    """Rows that each model reused, after a look at whether their answers are equal."""
    _, fresh = pair
    fresh.forget()
    logits = [model.first_logits(image, question, budget=budget) for model in pair]
    np.testing.assert_allclose(logits[0], logits[1], atol=2e-5)
    fresh.forget()
    answers = [model.generate(image, question, budget=budget) for model in pair]
    assert answers[0].token_ids == answers[1].token_ids
    assert answers[0].kept == answers[1].kept
    return answers[0].reused_rows, answers[1].reused_rows


def test_a_second_question_reuses_all_rows_up_to_it(pair: tuple[Model, Model]) -> None:
    reusing, _ = pair
    image = reusing.encode(picture(1))
    reusing.forget()
    first = reusing.generate(image, LONG, budget=8)
    second = reusing.generate(image, "why?", budget=8)
    assert first.reused_rows == 0
    assert second.reused_rows == BEFORE + 8 + len("\nwh")
    assert both(pair, image, "where?", 8)[1] == 0


def test_the_same_question_again_computes_its_last_row(pair: tuple[Model, Model]) -> None:
    first, again = (pair[0].generate(picture(1), LONG, budget=16) for _ in range(2))
    assert again.reused_rows == 16 + again.prompt_tokens - 1
    assert again.token_ids == first.token_ids


def test_pixels_count_not_the_object(pair: tuple[Model, Model]) -> None:
    """The same picture from a file, or encoded once more, has the same visual tokens."""
    pair[0].generate(picture(3), "what?", budget=16)
    assert pair[0].generate(pair[0].encode(picture(3)), "why?", budget=16).reused_rows > 16


@pytest.mark.parametrize("budget", [4, 8, 16])
def test_another_image_reuses_nothing_of_the_first(pair: tuple[Model, Model], budget: int) -> None:
    images = [pair[0].encode(picture(number)) for number in (1, 2)]
    for image in (*images, *images):
        assert both(pair, image, LONG, budget)[0] >= budget  # the generate behind its own logits
    pair[0].generate(images[0], LONG, budget=budget)
    assert pair[0].generate(images[1], LONG, budget=budget).reused_rows <= BEFORE


def test_another_rung_reuses_no_visual_row(pair: tuple[Model, Model]) -> None:
    image = pair[0].encode(picture(1))
    for budget in (4, 16, 8, 16):
        pair[0].generate(image, "what?", budget=4 if budget != 4 else 8)
        assert pair[0].generate(image, "what?", budget=budget).reused_rows <= BEFORE
        both(pair, image, "what?", budget)


def test_a_cancelled_answer_does_no_harm(pair: tuple[Model, Model]) -> None:
    image = pair[0].encode(picture(1))
    for pieces in (1, 2, 4):
        with pair[0].stream(image, LONG, budget=16) as stream:
            for _ in range(pieces):
                next(stream)
        reused, _ = both(pair, image, LONG + "?", 16)
        assert reused > 16


def test_a_failed_prefill_leaves_nothing_to_reuse(
    pair: tuple[Model, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of the prompt before are written over, so nobody may take them for good."""
    runtime, image = pair[0].runtime, pair[0].encode(picture(1))
    assert isinstance(runtime, BundleRuntime)
    pair[0].generate(image, "what?", budget=16)
    graph = runtime._graph("prefill", runtime.ladder.rung(8))
    run = graph.run

    def fail() -> None:
        run()  # memory runs out when some rows are written
        raise MemoryError

    monkeypatch.setattr(graph, "run", fail)
    with pytest.raises(MemoryError):
        pair[0].generate(image, LONG, budget=8)
    monkeypatch.undo()
    assert pair[0].generate(image, "what?", budget=16).reused_rows == 0
    both(pair, image, "what?", 16)


def test_a_failed_chunk_leaves_what_stands_before_it(
    pair: tuple[Model, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, image = pair[0].runtime, pair[0].encode(picture(1))
    assert isinstance(runtime, BundleRuntime)
    pair[0].generate(image, LONG, budget=16)
    (graph,) = runtime._graphs.extend.values()
    run = graph.run

    def fail() -> None:
        run()
        raise MemoryError

    monkeypatch.setattr(graph, "run", fail)
    with pytest.raises(MemoryError):
        pair[0].generate(image, LONG[:-2] + " hand?", budget=16)
    monkeypatch.undo()
    for question in (LONG, LONG[:-2] + " hand?"):
        both(pair, image, question, 16)


def test_a_rejected_prompt_does_no_harm(pair: tuple[Model, Model]) -> None:
    image = pair[0].encode(picture(1))
    pair[0].generate(image, "what?", budget=16)
    with pytest.raises(InputError, match="text tokens"):
        pair[0].generate(image, "x" * 100, budget=16)
    assert pair[0].generate(image, "why?", budget=16).reused_rows > 16


def test_rows_that_nobody_named_are_not_reused(pair: tuple[Model, Model]) -> None:
    """Whoever uses the runtime by hand leaves a cache of which nothing is known."""
    runtime, image = pair[0].runtime, pair[0].encode(picture(1))
    pair[0].generate(image, "what?", budget=16)
    width = runtime.manifest.text.hidden
    runtime.prefill(runtime.ladder.largest, np.ones((30, width), np.float32))
    runtime.step(77)
    assert pair[0].generate(image, "what?", budget=16).reused_rows == 0


def test_tokens_of_an_image_are_made_once_per_rung(
    pair: tuple[Model, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    compress = pair[0].runtime.compress

    def count(image: object, rung: object, *rest: object) -> object:
        made.append(rung)
        return compress(image, rung, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(pair[0].runtime, "compress", count)
    image = pair[0].encode(picture(1))
    for budget in (4, 8, 4, 8, 4):
        pair[0].generate(image, f"{budget}?", budget=budget)
    assert [rung.budget for rung in made] == [4, 8]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="read-only"):
        image.tokens[4].rows[0] = 0


def test_rows_that_prefill_removed_are_computed_anew(tiny_vlm: ModuleType, tmp_path: Path) -> None:
    """Which rows are gone depends on the question, so another one cannot begin with them."""
    import msgspec

    opened = Bundle.open(tiny_vlm.write(tmp_path / "tiny.bundle"))
    ladder = [msgspec.structs.replace(rung, removed=[0, 2]) for rung in opened.manifest.ladder]
    model = load(opened, threads=1)
    monkey = msgspec.structs.replace(opened.manifest, ladder=ladder)
    model.runtime.manifest = monkey  # type: ignore[misc]  # as a reducing prefill would say
    for _ in range(2):
        assert model.generate(picture(1), "what?", budget=8).reused_rows == 0


@pytest.mark.parametrize("rows", [9, 10, 13, 14, 16, 17, 40])
@pytest.mark.parametrize("start", [1, 8])
def test_extending_equals_a_longer_prefill(
    pair: tuple[Model, Model], rows: int, start: int
) -> None:
    runtime = pair[0].runtime
    rung, keys = runtime.ladder.largest, list(range(100, 100 + rows))
    embeds = runtime.embed(keys).copy()
    whole = runtime.prefill(rung, embeds).copy()
    following = runtime.step(50).copy()
    runtime.prefill(rung, embeds[:start], keys[:start])
    np.testing.assert_allclose(runtime.extend(embeds, start, keys), whole, atol=2e-5)
    np.testing.assert_allclose(runtime.step(50), following, atol=2e-5)


def test_prompts_shorter_than_a_chunk_go_step_by_step(pair: tuple[Model, Model]) -> None:
    runtime, ids = pair[0].runtime, [9, 200, 31, 4]
    embeds = runtime.embed(ids).copy()
    whole = runtime.prefill(runtime.ladder.smallest, embeds).copy()
    runtime.prefill(runtime.ladder.smallest, embeds[:1], ids[:1])
    np.testing.assert_allclose(runtime.extend(embeds, 1, ids), whole, atol=2e-5)


def test_extending_what_is_not_held_is_refused(pair: tuple[Model, Model]) -> None:
    runtime = pair[0].runtime
    embeds = np.ones((20, 32), np.float32)
    runtime.prefill(runtime.ladder.smallest, embeds[:5], range(5))
    with pytest.raises(UsageError, match="does not hold the first 6 rows"):
        runtime.extend(embeds, 6, range(20))
    with pytest.raises(InputError, match="holds 5 rows and has room for 155 of 195 more"):
        runtime.extend(np.ones((200, 32), np.float32), 5, range(200))


@pytest.mark.parametrize("stop", [16, 17, 31, 32, 33, 48, 100])
@pytest.mark.parametrize("start", [1, 7, 15])
def test_chunks_cover_every_row(start: int, stop: int) -> None:
    """As few chunks as there can be of one size, where no row may be put alone."""
    given = start, stop, (16,)
    chunks = choose_chunks(*given, overlapping=True, steps=0)
    places = place_chunks(start, stop, chunks.widths)
    covered = {row for at, width in places for row in range(at, at + width)}
    assert set(range(start, stop)) <= covered
    assert max(covered) == stop - 1
    assert len(places) == -(-(stop - start) // 16)
    plain = choose_chunks(*given, overlapping=False, steps=stop)
    assert len(plain.widths) * 16 + plain.steps == stop - start
    assert place_chunks(start, stop - plain.steps, plain.widths) == [
        (start + 16 * i, 16) for i in range(len(plain.widths))
    ]


def test_held_rows_are_compared_from_the_first_on() -> None:
    held = HeldRows()
    assert held.count_shared([1, 2]) == 0
    held.begin([1, ("a", 0), 3])
    held.append([4])
    assert held.count_shared([1, ("a", 0), 3, 4, 5]) == 4
    assert held.count_shared([1, ("b", 0), 3, 4]) == 1
    held.cut(2)
    assert held.count_shared([1, ("a", 0), 3, 4]) == 2
    held.forget()
    held.append([1])
    assert held.count_shared([1]) == 0


QUESTION = st.sampled_from(["", "w", "what?", "what is it?", "why?", LONG])
REQUEST = st.tuples(
    st.integers(1, 3),  # picture
    st.sampled_from([4, 8, 16]),
    QUESTION,
    st.sampled_from([None, None, 0, 1, 3]),  # pieces until the stream is closed
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(requests=st.lists(REQUEST, min_size=2, max_size=6))
def test_any_sequence_of_requests_answers_as_a_fresh_model(
    pair: tuple[Model, Model], requests: list[tuple[int, int, str, int | None]]
) -> None:
    for number, budget, question, pieces in requests:
        if pieces is None:
            both(pair, picture(number), question, budget)
            continue
        with pair[0].stream(picture(number), question, budget=budget) as stream:
            for _, _ in zip(range(pieces), stream, strict=False):
                pass


@pytest.fixture
def many(tiny_vlm: ModuleType, tmp_path: Path) -> Iterator[Model]:
    yield load(tiny_vlm.write(tmp_path / "tiny.bundle"), threads=1)


@pytest.mark.slow
def test_a_thousand_requests_do_not_grow(many: Model) -> None:
    image = many.encode(picture(0))

    def ask(number: int) -> None:
        budget = (4, 8, 16)[number % 3]
        source = image if number % 2 else picture(number % 7)
        if number % 5 == 0:
            with pytest.raises(EdgetokError):
                many.generate(source, "x" * 100, budget=budget)
        elif number % 7 == 0:
            with many.stream(source, "what?", budget=budget) as stream:
                next(stream)
        elif number % 11 == 0:
            talk = many.converse(source, budget=4)
            talk.ask("a", max_new_tokens=1)
            talk.ask("b", max_new_tokens=1)
        else:
            many.generate(source, f"{number % 13}?", budget=budget)

    assert grown_by(ask) < 1 << 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "flavour"),
    [
        ({"kv_policy": "a2sf", "kv_slots": 40}, "ort"),
        ({"kv": "kivi"}, "ort"),
        ({"kv": "kivi"}, "portable"),
        ({"kv": "zipcache"}, "ort"),
    ],
    ids=["a2sf", "kivi", "kivi-portable", "zipcache"],
)
def test_a_thousand_requests_that_empty_or_pack_the_cache_do_not_grow(
    options: dict[str, Any],
    flavour: Flavour,
    model_dir: Path,
    tmp_path: Path,
) -> None:
    """Answers go on beyond the slots or the ring: every one empties layers, or packs rows."""
    from edgetok.export.pipeline import export_model

    sizes = {"budgets": "4,full", "prompt_tokens": 48, "new_tokens": 60, "parity_images": 1}
    export_model(model_dir, tmp_path / "x.bundle", flavour=flavour, **sizes, **options)
    model = load(tmp_path / "x.bundle", threads=1, flavour=flavour)
    image, lengths = model.encode(picture(0)), []

    def ask(number: int) -> None:
        source, budget = image if number % 2 else picture(number % 7), (4, 16)[number % 3 % 2]
        if number % 5 == 0:
            with pytest.raises(EdgetokError):
                model.generate(source, "x" * 200, budget=budget)
        elif number % 7 == 0:
            with model.stream(source, "what?", budget=budget) as stream:
                next(stream)
        else:
            sampled = {"max_new_tokens": 50, "temperature": 2.0, "seed": number}
            answer = model.generate(source, f"{number % 13}?", budget=budget, **sampled)
            lengths.append(len(answer.token_ids))

    assert grown_by(ask) < 1 << 20
    assert sum(length > RING_ROWS for length in lengths) > 100


def grown_by(ask: Callable[[int], None]) -> int:
    """Private bytes that 1,000 requests add, once the allocator and Python have their caches."""
    for number in range(200):
        ask(number)
    before = machine.private_bytes()
    for number in range(1000):
        ask(number)
    after = machine.private_bytes()
    assert before is not None and after is not None
    return after - before
