"""Answers: which rung, when to stop, what is measured, what is refused."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgetok.bundle.reader import Bundle
from edgetok.control import BenchTable, Row
from edgetok.errors import InputError, UsageError
from edgetok.runtimes.answers.model import Model
from edgetok.runtimes.answers.stream import Stream
from edgetok.runtimes.load import load
from edgetok.runtimes.runtime.runtime import BundleRuntime


def rows_of(*times_ms: float) -> tuple[Row, ...]:
    return tuple(
        Row(budget=k, ttft_ms_p50=t, ttft_ms_p95=t, decode_ms_p50=1.0, memory_mib=10.0 * k)
        for k, t in zip((4, 8, 16), times_ms, strict=True)
    )


def measured(model: Model, *times_ms: float) -> Model:
    """The same model with a table of measurements."""
    table = BenchTable(bundle_digest=model.digest, device="cpu", rows=rows_of(*times_ms))
    return Model(model.runtime, model.processor, model.digest, tables=lambda *_: table)


def test_the_answer_says_how_it_came_about(model: Model, photo: np.ndarray) -> None:
    answer = model.generate(photo, "what is it?", budget=8)
    assert answer.budget == 8
    assert answer.reason == "8 visual tokens were asked for"
    assert (answer.stop_reason, len(answer.token_ids)) == ("length", 8)
    assert len(answer.kept) == len(set(answer.kept)) == 8
    assert answer.prompt_tokens == 1 + len("User: ") + len("\nwhat is it?\nAnswer:")
    assert answer.text == model.processor.tokenizer.decode(answer.token_ids)
    assert answer.decode_tokens_per_s > 0
    assert answer.confidence is not None
    assert answer.confidence.mean_log_probability < 0
    assert 0 < answer.confidence.first_margin < 1
    stages = {"preprocess", "tokenize", "tower", "compress", "embed", "prefill"}
    assert stages | {"ttft", "decode_total", "decode_per_token"} == answer.timings_ms.keys()
    assert sum(answer.timings_ms[stage] for stage in stages) <= answer.timings_ms["ttft"]


def test_the_answer_is_that_of_the_calls_below(model: Model, photo: np.ndarray) -> None:
    """generate() against the six calls of the protocol, put together by hand."""
    runtime, rung = model.runtime, model.ladder.largest
    prompt = model.processor.encode("why?")
    visual = runtime.compress(runtime.encode(model.processor.pixels(photo)), rung)
    before, after = runtime.embed(list(prompt.before)).copy(), runtime.embed(list(prompt.after))
    embeds = np.concatenate([before, visual.rows, after])
    logits, ids = runtime.prefill(rung, embeds), []
    while True:
        ids.append(int(np.argmax(logits)))
        if len(ids) == 8:
            break
        logits = runtime.step(ids[-1])
    answer = model.generate(photo, "why?")
    assert list(answer.token_ids) == ids
    assert answer.kept == tuple(visual.kept.tolist())


def test_streamed_pieces_join_to_the_answer(model: Model, photo: np.ndarray) -> None:
    stream = model.stream(photo, "what?")
    pieces = list(stream)
    assert len(pieces) > 1
    assert all(pieces)
    assert "".join(pieces) == stream.answer.text == model.generate(photo, "what?").text


def test_answers_repeat(model: Model, photo: np.ndarray) -> None:
    first = model.generate(photo, "what?", temperature=2.0, seed=1)
    model.generate(photo, "something else entirely", temperature=2.0, seed=9)
    again = model.generate(photo, "what?", temperature=2.0, seed=1)
    other = model.generate(photo, "what?", temperature=2.0, seed=2)
    assert first.token_ids == again.token_ids != other.token_ids


def test_a_stop_token_ends_the_answer(
    tiny_vlm: ModuleType, model: Model, photo: np.ndarray, tmp_path: Path
) -> None:
    ids = model.generate(photo, "what?").token_ids
    index = next(i for i in range(2, 8) if ids[i] not in ids[:i])
    recipe = tiny_vlm.Recipe(stop_ids=(ids[index],))
    stopping = load(tiny_vlm.write(tmp_path / "stop.bundle", recipe), threads=1)
    answer = stopping.generate(photo, "what?")
    assert (answer.stop_reason, answer.token_ids) == ("stop", ids[: index + 1])
    assert answer.text == model.processor.tokenizer.decode(ids[:index])


@pytest.mark.parametrize("count", [1, 3, 8])
def test_max_new_tokens_is_exact(model: Model, photo: np.ndarray, count: int) -> None:
    answer = model.generate(photo, "what?", max_new_tokens=count)
    assert (len(answer.token_ids), answer.stop_reason) == (count, "length")


def test_generation_stops_when_the_cache_is_full(model: Model, photo: np.ndarray) -> None:
    answer = model.generate(photo, "what?", max_new_tokens=1000)
    rows = 16 + answer.prompt_tokens
    assert answer.stop_reason == "cache"
    # The last token needs no row: nothing is decoded after it.
    assert len(answer.token_ids) == max(model.manifest.kv.slots) - rows + 1


def test_logits_that_are_not_finite_stop_generation(
    tiny_vlm: ModuleType, photo: np.ndarray, tmp_path: Path
) -> None:
    recipe = tiny_vlm.Recipe(nan_budget=8)
    broken = load(tiny_vlm.write(tmp_path / "nan.bundle", recipe), threads=1)
    answer = broken.generate(photo, "what?", budget=8)
    assert (answer.stop_reason, answer.token_ids, answer.text) == ("numeric", (), "")
    assert answer.confidence is None
    assert broken.generate(photo, "what?", budget=16).stop_reason == "length"


def test_logits_that_go_bad_later_keep_what_was_said(
    model: Model, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = model.generate(photo, "what?")
    model.forget()  # extending what is held may take steps as well
    real, calls = BundleRuntime.step, itertools.count()

    def step(self: BundleRuntime, token_id: int) -> np.ndarray:
        logits = real(self, token_id).copy()
        if next(calls) == 2:
            logits[7] = -np.inf
        return logits

    monkeypatch.setattr(BundleRuntime, "step", step)
    answer = model.generate(photo, "what?")
    assert (answer.stop_reason, answer.token_ids) == ("numeric", whole.token_ids[:3])


def prompt_of(model: Model, tokens: int) -> str:
    return "x" * (tokens - model.processor.encode("").tokens)


def test_a_prompt_may_fill_its_rung_and_no_more(
    model: Model, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tokens in (39, 40):
        assert model.generate(photo, prompt_of(model, tokens)).prompt_tokens == tokens
    monkeypatch.setattr(BundleRuntime, "encode", lambda *_: pytest.fail("ran the tower"))
    with pytest.raises(InputError, match=r"41 text tokens.*at most 40 fit; shorten it by 1"):
        model.generate(photo, prompt_of(model, 41))


def test_an_encoded_image_answers_several_questions(
    model: Model, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [model.generate(photo, "one?", budget=k) for k in (4, 16)]
    encoded = model.encode(photo)
    model.encode(np.zeros_like(photo))  # which leaves the first one alone
    monkeypatch.setattr(BundleRuntime, "encode", lambda *_: pytest.fail("ran the tower again"))
    answers = [model.generate(encoded, "one?", budget=k) for k in (4, 16)]
    assert [a.token_ids for a in answers] == [a.token_ids for a in wanted]
    assert [a.kept for a in answers] == [a.kept for a in wanted]
    assert "tower" not in answers[0].timings_ms


@pytest.fixture
def towers(tiny_vlm: ModuleType, tmp_path: Path) -> Model:
    """A model whose rungs have towers of their own, and a clock that counts its readings."""
    recipe = tiny_vlm.Recipe(towers=True, pictures=2)
    loaded = load(tiny_vlm.write(tmp_path / "towers.bundle", recipe), threads=1)
    ticks = itertools.count()
    given = loaded.runtime, loaded.processor, loaded.digest
    return Model(*given, clock=lambda: float(next(ticks)))


def test_another_rung_s_tower_is_measured_as_a_tower(towers: Model, photo: np.ndarray) -> None:
    """And not as a part of compression: the image is encoded again before that."""
    shown = [photo, photo[::-1]]
    wanted = towers.generate(shown, "one?", budget=16)
    encoded = towers.encode(shown, budget=4)
    got = towers.generate(encoded, "one?", budget=16)
    assert (got.token_ids, got.kept) == (wanted.token_ids, wanted.kept)
    assert got.timings_ms["tower"] == got.timings_ms["compress"] == 1000
    again = towers.generate(encoded, "two?", budget=16)  # whose tokens are there
    assert "tower" not in again.timings_ms
    assert "tower" not in towers.generate(encoded, "one?", budget=4).timings_ms
    visual = towers.compress(encoded, "one?", budget=8)
    own = towers.compress(towers.encode(shown, budget=8), "one?", budget=8)
    np.testing.assert_array_equal(visual.rows, own.rows)


def test_compression_takes_what_its_own_tower_made(towers: Model, photo: np.ndarray) -> None:
    encoded = towers.encode([photo, photo], budget=4)
    with pytest.raises(UsageError, match="the tower of 4 visual tokens encoded this image; encod"):
        towers.runtime.compress(encoded.output, towers.ladder.largest)


def test_a_closed_model_answers_no_more(
    tiny_vlm: ModuleType, photo: np.ndarray, tmp_path: Path
) -> None:
    path = tiny_vlm.write(tmp_path / "closed.bundle")
    with load(path, threads=1) as model:
        talk, encoded = model.converse(photo, budget=4), model.encode(photo)
        answer = talk.ask("what is it?")
        stream = model.stream(encoded, "why?", budget=4)
        next(stream)
        with pytest.raises(UsageError, match="answering already"):
            model.close()  # which would take the memory away under it
        stream.close()
    assert answer.text and talk.turns
    calls: list[Callable[[], object]] = [
        lambda: model.encode(photo),
        lambda: model.generate(encoded, "why?", budget=4),
        lambda: model.compress(encoded, "why?", budget=16),
        lambda: model.first_logits(photo, "why?", budget=4),
        lambda: talk.ask("and now?"),
        lambda: model.runtime.step(5),
    ]
    for call in calls:
        with pytest.raises(UsageError, match="this model is closed; load the bundle again"):
            call()
    model.close()  # once more changes nothing
    model.forget()
    with load(path, threads=1) as another:
        assert another.generate(photo, "what is it?", budget=4).text == answer.text


def test_options_that_there_are_not_are_named(model: Model, photo: np.ndarray) -> None:
    with pytest.raises(TypeError, match="top_q"):
        model.generate(photo, "why?", top_q=5)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="budgets"):
        model.converse(photo, budgets=5)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="budget"):
        model.converse(photo).ask("why?", budget=5)  # type: ignore[call-arg]


def test_an_image_of_another_bundle_is_refused(
    tiny_vlm: ModuleType, model: Model, photo: np.ndarray, tmp_path: Path
) -> None:
    other = load(tiny_vlm.write(tmp_path / "b", tiny_vlm.Recipe(seed=1)), threads=1)
    with pytest.raises(UsageError, match="encoded by another bundle"):
        model.generate(other.encode(photo), "what?")


def test_without_a_wish_the_largest_rung_answers(model: Model, photo: np.ndarray) -> None:
    assert model.generate(photo, "what?").budget == 16


@pytest.mark.parametrize(("level", "budget"), [(0, 4), (90, 8), (255, 16)])
def test_the_elbow_of_the_image_chooses(model: Model, level: int, budget: int) -> None:
    image = np.full((8, 8, 3), level, np.uint8)
    answer = model.generate(image, "what?", signal="elbow")
    assert answer.budget == budget
    assert "CLS-similarity" in answer.reason
    assert answer.signals.keys() == {"signal_elbow_tokens"}


@pytest.mark.parametrize(
    ("options", "budget"),
    [
        ({"max_ttft_ms": 250}, 8),
        ({"max_ttft_ms": 1000}, 16),
        ({"max_ttft_ms": 5}, 4),
        ({"max_memory_mib": 50}, 4),
        ({"max_ttft_ms": 1000, "max_memory_mib": 80}, 8),
    ],
)
def test_limits_choose_from_what_was_measured(
    model: Model, photo: np.ndarray, options: dict, budget: int
) -> None:
    answer = measured(model, 100.0, 200.0, 300.0).generate(photo, "what?", **options)
    assert answer.budget == budget


def test_a_limit_without_measurements_says_how_to_get_them(
    model: Model, photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGETOK_CACHE_DIR", str(tmp_path))
    with pytest.raises(UsageError, match="edgetok bench"):
        model.generate(photo, "what?", max_ttft_ms=100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 4, "signal": "elbow"}, "exclude each other"),
        ({"budget": 4, "max_ttft_ms": 10}, "exclude each other"),
        ({"max_memory_mib": 4, "signal": "elbow"}, "exclude each other"),
        ({"budget": 5}, r"no rung of 5 visual tokens; this bundle has \(4, 8, 16\)"),
        ({"signal": "entropy"}, "signal 'entropy' is unknown"),
        ({"max_new_tokens": 0}, "max_new_tokens 0"),
        ({"max_new_tokens": 10**6}, "max_new_tokens 1000000"),
        ({"temperature": -1}, "temperature -1"),
    ],
)
def test_wrong_options_are_refused_at_once(
    model: Model, photo: np.ndarray, options: dict, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        model.stream(photo, "what?", **options)


def test_closing_a_stream_cancels_it(model: Model, photo: np.ndarray) -> None:
    stream = model.stream(photo, "what?", max_new_tokens=8)
    first = next(stream)
    stream.close()
    assert list(stream) == []
    assert stream.answer.stop_reason == "cancelled"
    assert stream.answer.text == first
    assert len(model.generate(photo, "what?").token_ids) == 8


def test_a_stream_is_a_context(model: Model, photo: np.ndarray) -> None:
    with model.stream(photo, "what?") as stream:
        next(stream)
    assert stream.answer.stop_reason == "cancelled"


def test_an_abandoned_stream_frees_the_model(model: Model, photo: np.ndarray) -> None:
    stream: Stream | None = model.stream(photo, "what?")
    assert stream is not None
    next(stream)
    del stream
    gc.collect()
    assert model.generate(photo, "what?").stop_reason == "length"


def test_one_answer_at_a_time(model: Model, photo: np.ndarray) -> None:
    with model.stream(photo, "what?") as stream:
        next(stream)
        for refused in (lambda: model.generate(photo, "x"), lambda: model.encode(photo)):
            with pytest.raises(UsageError, match="this model is answering already"):
                refused()
    assert stream.answer.stop_reason == "cancelled"


def test_a_failure_frees_the_model(model: Model, photo: np.ndarray) -> None:
    with pytest.raises(InputError):
        model.generate(b"no image", "what?")
    assert model.generate(photo, "what?").stop_reason == "length"


def test_an_answer_is_there_only_at_the_end(model: Model, photo: np.ndarray) -> None:
    stream = model.stream(photo, "what?")
    with pytest.raises(UsageError, match="not complete"):
        stream.answer  # noqa: B018
    stream.close()
    with pytest.raises(UsageError, match="closed before it began"):
        stream.answer  # noqa: B018


def test_time_is_read_from_the_clock_that_was_given(model: Model, photo: np.ndarray) -> None:
    """A clock that ticks once per reading makes every duration exact."""
    ticks: Iterator[int] = itertools.count()
    timed = Model(model.runtime, model.processor, model.digest, clock=lambda: float(next(ticks)))
    answer = timed.generate(photo, "what?", max_new_tokens=3)
    stages = ("tokenize", "preprocess", "tower", "compress", "embed", "prefill")
    assert [answer.timings_ms[stage] for stage in stages] == [1000.0] * 6
    assert answer.timings_ms["ttft"] == 13_000.0
    assert answer.timings_ms["decode_total"] == 2000.0
    assert answer.timings_ms["decode_per_token"] == 1000.0
    assert answer.decode_tokens_per_s == 1.0


def test_the_time_of_the_reader_does_not_count(model: Model, photo: np.ndarray) -> None:
    now = [0.0]
    timed = Model(model.runtime, model.processor, model.digest, clock=lambda: now[0])
    stream = timed.stream(photo, "what?")
    for _ in stream:
        now[0] += 60
    assert stream.answer.timings_ms["decode_total"] == 0


def test_first_logits_are_those_of_the_answer(model: Model, photo: np.ndarray) -> None:
    logits = model.first_logits(photo, "what?", budget=8)
    answer = model.generate(photo, "what?", budget=8)
    assert logits.shape == (model.manifest.text.vocabulary,)
    assert int(logits.argmax()) == answer.token_ids[0]


def test_a_subset_of_rungs_answers_as_the_whole_ladder(
    opened: Bundle, model: Model, photo: np.ndarray
) -> None:
    small = load(opened, budgets=(4, 8), threads=1)
    assert small.generate(photo, "what?").budget == 8
    assert (
        small.generate(photo, "what?", budget=4).token_ids
        == model.generate(photo, "what?", budget=4).token_ids
    )
