"""Several turns about one image: each answers as if all before it were one prompt."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest

from edgetok.bundle.processor import parse_prompt_plan
from edgetok.bundle.strict import encode_strict
from edgetok.errors import BundleError, InputError, UsageError
from edgetok.runtimes.answers.conversation import Conversation, Turn
from edgetok.runtimes.answers.model import Model
from edgetok.runtimes.load import load
from edgetok.text.prompt import encode_turn

SLOTS = 200


@pytest.fixture(scope="module", params=[False, True], ids=["fp32", "int8"])
def model(
    request: pytest.FixtureRequest, tiny_vlm: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Model:
    recipe = tiny_vlm.Recipe(slots=SLOTS, prompt_tokens=150, int8_cache=request.param)
    return load(tiny_vlm.write(tmp_path_factory.mktemp("talk") / "t.bundle", recipe), threads=1)


def answer_at_once(model: Model, photo: np.ndarray, budget: int, said: list[object]) -> list[int]:
    """Greedy ids after a whole conversation (texts and answers' ids in turn), in one prefill."""
    runtime, processor = model.runtime, model.processor
    prompt = processor.encode(str(said[0]))
    after = list(prompt.after)
    for each in said[1:]:
        after += processor.encode_turn(each) if isinstance(each, str) else each  # type: ignore[arg-type,operator]
    rung = model.ladder.rung(budget)
    visual = runtime.compress(runtime.encode(processor.pixels(photo)), rung)
    text = runtime.embed([*prompt.before, *after]).copy()
    split = len(prompt.before)
    logits = runtime.prefill(rung, np.concatenate([text[:split], visual.rows, text[split:]]))
    ids = [int(np.argmax(logits))]
    while len(ids) < 6:
        ids.append(int(np.argmax(runtime.step(ids[-1]))))
    return ids


@pytest.mark.parametrize("budget", [4, 16])
@pytest.mark.parametrize("disturbed", [False, True])
def test_each_turn_answers_as_one_long_prompt(
    model: Model, photo: np.ndarray, budget: int, disturbed: bool
) -> None:
    talk = model.converse(photo, budget=budget)
    said: list[object] = []
    for text in ("what is it?", "why?", "and where is the other one?"):
        if disturbed:  # its rows are gone then
            model.generate(photo, "something else", budget=8)
        answer = talk.ask(text, max_new_tokens=6)
        said.append(text)
        assert list(answer.token_ids) == answer_at_once(model, photo, budget, said)
        said.append(list(answer.token_ids))
    assert [turn.question for turn in talk.turns] == said[::2]


def test_later_turns_compute_nothing_twice(model: Model, photo: np.ndarray) -> None:
    model.forget()
    talk = model.converse(photo, budget=16)
    first = talk.ask("what is it?", max_new_tokens=5)
    rows = 16 + first.prompt_tokens
    assert (first.reused_rows, talk.tokens_left) == (0, SLOTS - rows - 5)
    second = talk.ask("why?", max_new_tokens=5)
    assert second.prompt_tokens == 1 + len("User: why?\nAnswer:")
    assert second.reused_rows == rows + 4  # the last token of an answer has no row yet
    assert (second.budget, second.reason, second.kept) == (16, first.reason, first.kept)
    assert {"preprocess", "tower", "compress"}.isdisjoint(second.timings_ms)


def test_two_conversations_do_not_mix(model: Model, photo: np.ndarray) -> None:
    other = np.flip(photo).copy()
    alone = [self_talk(model, each) for each in (photo, other)]
    talks = [model.converse(each, budget=8) for each in (photo, other)]
    mixed: list[list[tuple[int, ...]]] = [[], []]
    for text in ("a", "b", "c"):
        for talk, ids in zip(talks, mixed, strict=True):
            ids.append(talk.ask(text, max_new_tokens=4).token_ids)
    assert mixed == alone
    assert alone[0] != alone[1]


def self_talk(model: Model, image: np.ndarray) -> list[tuple[int, ...]]:
    talk = model.converse(image, budget=8)
    return [talk.ask(text, max_new_tokens=4).token_ids for text in ("a", "b", "c")]


def test_a_stop_token_is_not_said_twice(
    tiny_vlm: ModuleType, photo: np.ndarray, tmp_path: Path
) -> None:
    """The template ends an answer in its own way, whatever token made the model stop."""
    plain = load(tiny_vlm.write(tmp_path / "plain.bundle"), threads=1)
    ids = plain.generate(photo, "a", budget=4).token_ids
    index = next(i for i in range(1, 8) if ids[i] not in ids[:i])
    recipe = tiny_vlm.Recipe(stop_ids=(ids[index],), slots=SLOTS)
    model = load(tiny_vlm.write(tmp_path / "stop.bundle", recipe), threads=1)
    talk = model.converse(photo, budget=4)
    left = SLOTS - 4 - talk.ask("a").prompt_tokens - index
    assert talk.tokens_left == left
    assert talk.turns == (Turn("a", model.processor.tokenizer.decode(ids[:index])),)


def test_a_closed_stream_ends_its_turn(model: Model, photo: np.ndarray) -> None:
    talk = model.converse(photo, budget=4)
    with talk.stream("what is it?") as stream:
        piece = next(stream)
    assert talk.turns == (Turn("what is it?", piece),)
    ids = list(stream.answer.token_ids)
    said: list[object] = ["what is it?", ids, "why?"]
    assert list(talk.ask("why?", max_new_tokens=6).token_ids) == answer_at_once(
        model, photo, 4, said
    )


def test_a_stream_that_nobody_read_leaves_no_trace(model: Model, photo: np.ndarray) -> None:
    talk = model.converse(photo, budget=4)
    talk.stream("what is it?").close()
    assert talk.turns == ()
    talk.ask("a", max_new_tokens=2)
    talk.stream("b").close()
    assert len(talk.turns) == 1


def test_a_rejected_question_leaves_no_trace(model: Model, photo: np.ndarray) -> None:
    talk = model.converse(photo, budget=4)
    for text in ("x" * 200, "\ud800"):
        with pytest.raises(InputError):
            talk.ask(text)
    first = talk.ask("what?", max_new_tokens=4)
    for text in ("x" * 200, "\ud800"):
        with pytest.raises(InputError):
            talk.ask(text)
    second = talk.ask("why?", max_new_tokens=4)
    fresh = model.converse(photo, budget=4)
    asked = [fresh.ask(text, max_new_tokens=4).token_ids for text in ("what?", "why?")]
    assert asked == [first.token_ids, second.token_ids]


def test_the_end_of_the_cache_is_named_before_any_work(model: Model, photo: np.ndarray) -> None:
    talk = model.converse(photo, budget=16)
    turn = 1 + len("User: why?\nAnswer:")
    talk.ask("what?", max_new_tokens=8)
    while talk.tokens_left >= turn:
        before = talk.tokens_left
        answer = talk.ask("why?", max_new_tokens=8)
        assert talk.tokens_left == max(0, before - turn - len(answer.token_ids))
    count = len(talk.turns)
    message = (
        f"this turn needs {turn} tokens and {talk.tokens_left} of {SLOTS} are left in the KV cache "
        f"after {count} turns; shorten the question, begin a new conversation, or export"
    )
    with pytest.raises(InputError, match=message):
        talk.ask("why?")
    assert len(talk.turns) == count
    assert model.converse(photo, budget=16).ask("what?", max_new_tokens=2).stop_reason == "length"


def test_an_answer_that_fills_the_cache_says_so(model: Model, photo: np.ndarray) -> None:
    talk = model.converse(photo, budget=4)
    talk.ask("what?", max_new_tokens=4)
    assert talk.ask("why?", max_new_tokens=1000).stop_reason == "cache"
    assert talk.tokens_left == 0
    with pytest.raises(InputError, match="0 of 200 are left"):
        talk.ask("why?")


def test_one_answer_at_a_time(model: Model, photo: np.ndarray) -> None:
    talk = model.converse(photo)
    with talk.stream("what?") as stream:
        next(stream)
        with pytest.raises(UsageError, match="answering already"):
            model.generate(photo, "what?")
        with pytest.raises(UsageError, match="answering already"):
            talk.ask("what?")
    assert len(talk.turns) == 1


def test_wrong_options_are_refused_at_once(model: Model, photo: np.ndarray) -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        model.converse(photo, budget=4, signal="elbow")
    talk: Conversation = model.converse(photo)
    with pytest.raises(UsageError, match="max_new_tokens 0"):
        talk.stream("what?", max_new_tokens=0)
    with pytest.raises(UsageError, match="temperature"):
        talk.stream("what?", temperature=-1)


def test_a_template_without_later_turns_has_no_conversations(
    tiny_vlm: ModuleType, model: Model
) -> None:
    plan = msgspec.structs.replace(tiny_vlm.prompt_plan(), turn=None)
    with pytest.raises(UsageError, match="writes earlier turns anew"):
        encode_turn(plan, model.processor.tokenizer, "why?")


@pytest.mark.parametrize("text", ["<image>", "<|end|>"])
def test_control_tokens_in_a_turn_are_text(model: Model, text: str) -> None:
    ids = model.processor.encode_turn(text)
    assert len(ids) == 1 + len(f"User: {text}\nAnswer:")
    assert set(ids[1:]).isdisjoint(model.processor.prompt.forbidden_ids)


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ([{"text": "a"}], r"0 of \$\.turn have slot 'user'; exactly 1"),
        ([{"slot": "user"}, {"slot": "image"}], r"1 of \$\.turn have slot 'image'; exactly 0"),
        ([{"slot": "user", "text": "a"}], r"\$\.turn\[0\] must set exactly one"),
    ],
)
def test_malformed_turns_are_refused(tiny_vlm: ModuleType, turn: list, message: str) -> None:
    plan = msgspec.to_builtins(tiny_vlm.prompt_plan()) | {"turn": turn}
    with pytest.raises(BundleError, match=message):
        parse_prompt_plan(encode_strict(plan))
