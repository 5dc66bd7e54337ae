"""Conversations where prefill or a policy takes rows away: text is put behind what is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetok.runtimes.answers.model import Model
from edgetok.runtimes.load import load

QUESTIONS = ("What is in the picture?", "a", "a red circle")
ANSWER_TOKENS = 5
KINDS: dict[str, dict[str, Any]] = {
    "prefill": {"prefill": "fastv"},
    "policy": {"kv_policy": "streaming", "kv_slots": 48},
}


@pytest.fixture(scope="module", params=KINDS)
def model(
    request: pytest.FixtureRequest, model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Model:
    from edgetok.export.pipeline import export_model

    out = tmp_path_factory.mktemp(request.param) / "tiny.bundle"
    options = {"budgets": "8,full", "prompt_tokens": 64, "new_tokens": 32, "parity_images": 1}
    export_model(model_dir, out, **options, **KINDS[request.param])
    return load(out, threads=1)


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (40, 48, 3), np.uint8)


def answer_by_steps(model: Model, image: np.ndarray, asked: tuple[str, ...]) -> list[int]:
    """The last answer when the first question is prefilled and all the rest is stepped."""
    runtime, processor, rung = model.runtime, model.processor, model.ladder.largest
    prompt = processor.encode(asked[0])
    visual = runtime.compress(runtime.encode(processor.pixels(image)), rung)
    text, split = runtime.embed([*prompt.before, *prompt.after]).copy(), len(prompt.before)
    embeds = np.concatenate([text[:split], visual.rows, text[split:]])
    logits = runtime.prefill(rung, embeds, visual_start=split)
    for number in range(len(asked)):
        for token in processor.encode_turn(asked[number]) if number else ():
            logits = runtime.step(token)
        ids = [int(np.argmax(logits))]
        while len(ids) < ANSWER_TOKENS:
            ids.append(int(np.argmax(runtime.step(ids[-1]))))
        logits = runtime.step(ids[-1])
    return ids


@pytest.mark.parametrize("disturbed", [False, True])
def test_later_turns_answer_as_steps_would(model: Model, disturbed: bool) -> None:
    talk = model.converse(picture(1))
    answers = []
    for text in QUESTIONS:
        if disturbed:
            model.generate(picture(2), "What?", max_new_tokens=3)
        answers.append(talk.ask(text, max_new_tokens=ANSWER_TOKENS))
    for number, answer in enumerate(answers):
        assert answer.stop_reason == "length"  # so that `answer_by_steps` does the same
        assert (answer.reused_rows > answer.budget) == (number > 0 and not disturbed)
        asked = QUESTIONS[: number + 1]
        assert list(answer.token_ids) == answer_by_steps(model, picture(1), asked)


def test_other_questions_about_the_image_begin_afresh(model: Model) -> None:
    """Which rows are gone depends on the question before, so nothing of it can stay."""
    image = model.encode(picture(1))
    for question in ("What is it?", "What is in the picture?", "What is it?"):
        answer = model.generate(image, question, max_new_tokens=4)
        assert answer.reused_rows == 0
        model.forget()
        assert model.generate(image, question, max_new_tokens=4).token_ids == answer.token_ids
