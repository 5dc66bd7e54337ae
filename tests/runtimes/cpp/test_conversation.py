"""Both libraries answer every turn of a conversation alike, and refuse the same ones."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

import edgetok
from edgetok.errors import IncompatibleError, InputError

SLOTS = 200
BEFORE = 1 + len("User: ")  # rows in front of every image, which another one leaves
QUESTIONS = ("what is it?", "why?", "and where is the other one?", "")


@pytest.fixture(scope="module", params=[False, True], ids=["fp32", "int8"])
def pair(request, library, capi, pairs, tiny_vlm, tmp_path_factory) -> Any:
    recipe = tiny_vlm.Recipe(slots=SLOTS, prompt_tokens=150, int8_cache=request.param)
    folder = tiny_vlm.write(tmp_path_factory.mktemp("talk") / "t.bundle", recipe)
    return pairs.Pair(library, capi, folder)


@pytest.mark.parametrize("budget", [0, 4])
@pytest.mark.parametrize("disturbed", [False, True])
def test_turns_are_equal(pair: Any, pairs: ModuleType, budget: int, disturbed: bool) -> None:
    pair.forget()
    talk = pair.converse(pairs.picture(1), budget)
    talk.require_same_state()
    for number, text in enumerate(QUESTIONS):
        if disturbed:  # its rows are gone then
            pair.ask(pairs.picture(2), "something else", 8, max_new_tokens=3)
        answer = talk.ask(text, max_new_tokens=6)
        assert (answer.reused > BEFORE) == (number > 0 and not disturbed)
        assert (answer.timings["tower_ms"] > 0) == (number == 0)


def test_two_conversations_do_not_mix(pair: Any, pairs: ModuleType) -> None:
    talks = [pair.converse(pairs.picture(n), 8) for n in (1, 2)]
    for text in ("a", "b", "c"):
        for talk in talks:
            talk.ask(text, max_new_tokens=4)


def test_a_stop_token_is_not_said_twice(library, capi, pairs, tiny_vlm, tmp_path) -> None:
    plain = pairs.Pair(library, capi, tiny_vlm.write(tmp_path / "plain.bundle"))
    ids = plain.ask(pairs.picture(1), "a", 4).tokens
    index = next(i for i in range(1, 8) if ids[i] not in ids[:i])
    recipe = tiny_vlm.Recipe(stop_ids=(ids[index],), slots=SLOTS)
    talk = pairs.Pair(library, capi, tiny_vlm.write(tmp_path / "s.bundle", recipe)).converse(
        pairs.picture(1), 4
    )
    left = talk.cpp.tokens_left
    answer = talk.ask("a")
    assert (answer.stop, len(answer.tokens)) == ("stop", index + 1)
    assert left - talk.cpp.tokens_left > index
    talk.ask("b")


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_cancelled_turn_has_been_said_so_far(pair: Any, pairs: ModuleType, pieces: int) -> None:
    talk = pair.converse(pairs.picture(1), 4)
    for text in QUESTIONS[:3]:
        assert talk.ask(text, pieces).stop == "cancelled"
    assert talk.ask("why?", max_new_tokens=4).stop == "length"


def test_another_thread_cancels_a_turn(pair: Any, pairs: ModuleType) -> None:
    talk = pair.converse(pairs.picture(1), 4)

    def cancel(_: int) -> int:
        other = threading.Thread(target=pair.cpp.cancel)
        other.start()
        other.join()
        return 0

    for turn in (1, 2):
        answer = talk.ask_cpp("what?", on_token=cancel)
        assert (answer.stop, len(answer.tokens), talk.cpp.turns) == ("cancelled", 1, turn)
        read = talk.python.stream("what?")
        with read:
            next(read)
        assert list(read.answer.token_ids) == answer.tokens
    talk.ask("why?", max_new_tokens=4)


def test_what_is_refused_leaves_no_trace(pair: Any, pairs: ModuleType, capi: ModuleType) -> None:
    talk = pair.converse(pairs.picture(1), 4)
    too_many = "151 text tokens, template included, and at most 150 fit"
    with pytest.raises(capi.Failure, match=too_many) as caught:
        talk.cpp.ask([2], [9] * 150)
    assert (caught.value.status, talk.cpp.turns) == (5, 0)
    talk.ask("what?", max_new_tokens=4)
    for asked, request, message in (
        (([2], [9]), {}, "no image for tokens to stand before"),
        (([], []), {}, "a later turn has no tokens"),
        (([], [260]), {}, "token id 260 is outside"),
        (([], [9]), {"budget": 8}, "chosen at its first turn, and that was 4"),
        (([], [9]), {"elbow": 1}, "chosen at its first turn"),
        (([], [9]), {"max_new_tokens": -1}, "max_new_tokens -1"),
        (([], [9]), {"temperature": -1.0}, "temperature -1 is outside"),
    ):
        with pytest.raises(capi.Failure, match=message):
            talk.cpp.ask(*asked, **request)
        talk.require_same_state()
    talk.ask("why?", max_new_tokens=4)


def test_the_end_of_the_cache_is_named_alike(
    pair: Any, pairs: ModuleType, capi: ModuleType
) -> None:
    talk = pair.converse(pairs.picture(1), 16)
    turn = len(pair.python.processor.encode_turn("why?"))
    talk.ask("what?", max_new_tokens=8)
    while talk.cpp.tokens_left >= turn:
        talk.ask("why?", max_new_tokens=8)
    turns = talk.cpp.turns
    with pytest.raises(InputError) as want:
        talk.python.ask("why?")
    with pytest.raises(capi.Failure, match=re.escape(str(want.value))) as found:
        talk.ask_cpp("why?")
    assert (found.value.status, talk.cpp.turns) == (5, turns)
    pair.ask(pairs.picture(1), "what?", 16, max_new_tokens=2)  # the model is free


def test_an_answer_that_fills_the_cache_says_so(pair: Any, pairs: ModuleType) -> None:
    talk = pair.converse(pairs.picture(1), 4)
    talk.ask("what?", max_new_tokens=4)
    assert talk.ask("why?", max_new_tokens=1000).stop == "cache"
    assert talk.cpp.tokens_left == 0


def test_one_answer_at_a_time(pair: Any, pairs: ModuleType, capi: ModuleType) -> None:
    talk, image = pair.converse(pairs.picture(1), 4), pair.cpp.image(pairs.picture(1))
    refused = []

    def ask_again(_: int) -> int:
        for work in (
            lambda: talk.ask_cpp("what?"),
            lambda: pair.cpp.generate(image, [2], [9]),
            pair.cpp.forget,
        ):
            with pytest.raises(capi.Failure, match="is answering already"):
                work()
            refused.append(work)
        return 1

    assert talk.ask_cpp("what?", on_token=ask_again).stop == "cancelled"
    assert (len(refused), talk.cpp.turns) == (3, 1)


def test_a_turn_whose_numbers_are_none_leaves_no_trace(
    library, capi, pairs, tiny_vlm, tmp_path
) -> None:
    recipe = tiny_vlm.Recipe(nan_budget=8, slots=SLOTS)
    pair = pairs.Pair(library, capi, tiny_vlm.write(tmp_path / "n.bundle", recipe))
    talk = pair.converse(pairs.picture(1), 8)
    answer = talk.ask("what?")
    assert (answer.stop, answer.tokens, talk.cpp.turns) == ("numeric", [], 0)
    answer = talk.ask_cpp("what?", budget=4)  # another rung may serve
    assert (answer.stop, answer.reused, talk.cpp.turns) == ("length", 0, 1)


def test_a_turn_that_fails_has_been_said_so_far(library, capi, pairs, tiny_vlm, tmp_path) -> None:
    """ONNX Runtime refuses some step: what was told before stays, and both go on alike."""
    recipe = tiny_vlm.Recipe(step_ids=245, slots=800)
    pair = pairs.Pair(library, capi, tiny_vlm.write(tmp_path / "f.bundle", recipe))
    talk = pair.converse(pairs.picture(1), 4)
    told: list[int] = []
    for seed in range(3):
        options = {"temperature": 20.0, "seed": seed, "max_new_tokens": 150}
        with pytest.raises(IncompatibleError, match="cannot run it"):
            talk.python.ask("a", **options)
        with pytest.raises(capi.Failure, match="cannot run it") as caught:
            talk.ask_cpp("a", on_token=lambda token: told.append(token) or 0, **options)
        assert (caught.value.status, talk.cpp.turns) == (4, seed + 1)
        assert told[-1] >= 245
        talk.require_same_state()
        pair.ask(pairs.picture(1), "what?", 4, max_new_tokens=1)
    talk.ask("why?", max_new_tokens=1)


def test_handles_may_be_freed_in_any_order(library, capi, pairs, tiny_vlm, tmp_path) -> None:
    folder = tiny_vlm.write(tmp_path / "t.bundle", tiny_vlm.Recipe(slots=SLOTS))
    talk = pairs.Pair(library, capi, folder).converse(pairs.picture(1), 4)
    del talk.pair.cpp  # bundle, model and image
    gc.collect()
    talk.ask("what?", max_new_tokens=4)
    talk.ask("why?", max_new_tokens=4)
    library.raw.edgetok_conversation_free(None)
    assert library.raw.edgetok_conversation_turns(None) == 0
    assert library.raw.edgetok_conversation_ask(None, None, None, None) == 2
    assert library.raw.edgetok_converse(None, None, None) == 2


def test_a_template_without_later_turns_has_no_conversations(
    library, capi, tiny_vlm, pairs, monkeypatch, tmp_path
) -> None:
    plan = msgspec.structs.replace(tiny_vlm.prompt_plan(), turn=None)
    monkeypatch.setattr(tiny_vlm, "prompt_plan", lambda: plan)
    model = capi.Model(capi.Bundle(library, tiny_vlm.write(tmp_path / "t.bundle")))
    with pytest.raises(capi.Failure, match="writes earlier turns anew") as caught:
        model.converse(model.image(pairs.picture(1)))
    assert caught.value.status == 2


def test_the_example_talks(build: Path, pairs, tiny_vlm, tmp_path) -> None:
    """A program over edgetok.hpp, drawn and greedy."""
    folder = tiny_vlm.write(tmp_path / "t.bundle", tiny_vlm.Recipe(slots=SLOTS))
    model, photo = edgetok.load(folder), tmp_path / "photo.png"
    Image.fromarray(pairs.picture(1)).save(photo)
    processor, texts = model.processor, ("what?", "why?", "")
    prompt = processor.encode(texts[0])
    turns = [prompt.after, *(processor.encode_turn(text) for text in texts[1:])]
    lines = "".join(" ".join(map(str, ids)) + "\n" for ids in turns)
    talker = [build / "examples" / "04_talk", folder, photo, " ".join(map(str, prompt.before))]
    for options in ([], ["1.5", "7"]):
        done = subprocess.run([*talker, *options], input=lines, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        talk = model.converse(photo)
        heat, seed = (1.5, 7) if options else (0.0, 0)
        wanted = [talk.ask(text, temperature=heat, seed=seed).token_ids for text in texts]
        found = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
        assert found == wanted
    done = subprocess.run([*talker[:3], "999"], input=lines, capture_output=True, text=True)
    assert (done.returncode, "token id 999" in done.stderr) == (5, True)


# ---- real exports: what prefill or a policy takes away, every precision of the cache ----

KINDS: dict[str, dict[str, Any]] = {
    "prefill": {"prefill": "fastv"},
    "streaming": {"kv_policy": "streaming", "kv_slots": 48},
    "h2o": {"kv_policy": "h2o", "kv_slots": 48},
    "int8": {"kv": "int8"},
    "int4": {"kv": "int4"},
    "portable": {"kv": "int8", "flavour": "portable"},
    "question": {"method": "catp"},
    "int8 policy": {"kv": "int8", "kv_policy": "streaming", "kv_slots": 48},
}


def _talk_over(pair: Any, pairs: ModuleType, shown: list[np.ndarray]) -> None:
    """Turns with and without other questions in between, one cancelled, one drawn."""
    for disturbed in (False, True):
        talk = pair.converse(shown[0])
        for number, text in enumerate(("What is in the picture?", "a", "a red circle")):
            if disturbed:
                pair.ask(shown[1], "What?", max_new_tokens=3)
            talk.ask(text, 2 if number == 1 else None, max_new_tokens=5, temperature=number // 2)
    for text in ("What is it?", "What is in the picture?", "What is it?"):
        pair.ask(shown[0], text, max_new_tokens=4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_exported_bundles_talk_alike(
    kind: str, library, capi, pairs, model_dir: Path, samples: Path, tmp_path: Path
) -> None:
    from edgetok.export.pipeline import export_model

    sizes = {"budgets": "8,full", "prompt_tokens": 64, "new_tokens": 32, "parity_images": 1}
    export_model(model_dir, tmp_path / "x.bundle", samples=samples, **sizes, **KINDS[kind])
    flavour = KINDS[kind].get("flavour", "ort")
    pair = pairs.Pair(library, capi, tmp_path / "x.bundle", flavour=flavour)
    _talk_over(pair, pairs, [pairs.picture(n) for n in (1, 2)])


# ---- the demo model, which was trained on conversations ----

DEMO = Path(__file__).parents[3] / "examples" / "demo_vlm"


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Two conversations of the calibrate split, pictures opened."""
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("conversations")
    maker = [sys.executable, "make.py", "--split", "calibrate", "--form", "conversations"]
    subprocess.run([*maker, "--count", "2", "-o", str(folder)], cwd=DEMO, check=True)
    found = map(json.loads, (folder / "conversations.jsonl").read_text().splitlines())
    return [
        each | {"image": np.asarray(Image.open(folder / each["image"]).convert("RGB"))}
        for each in found
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weights": "int8", "kv": "int8"},
        {"weights": "int4", "kv": "int4"},
        {"kv_policy": "streaming", "kv_slots": 200},
    ],
    ids=str,
)
def test_the_demo_talks_alike(
    library, capi, pairs, conversations, samples: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    """Up to 12 turns; the second conversation is drawn, and disturbed."""
    from edgetok.export.pipeline import export_model

    sizes = {"budgets": "64,full", "new_tokens": 400, "parity_images": 1}
    bundle = tmp_path / "demo.bundle"
    export_model(DEMO / "checkpoint", bundle, samples=samples, **sizes, **options)
    pair, turns = pairs.Pair(library, capi, bundle), 0
    for number, each in enumerate(conversations):
        talk = pair.converse(each["image"], (64, 0)[number])
        for turn, said in enumerate(each["turns"][:12]):
            heat = {"temperature": 0.8 * number, "top_p": 0.9, "seed": turn}
            answer = talk.ask(said["prompt"], max_new_tokens=16, **heat)
            turns += answer.reused > answer.tried[-1]
            if number and turn % 5 == 4:
                pair.ask(conversations[0]["image"], "What is it?", 64, max_new_tokens=4)
    assert turns >= 12
