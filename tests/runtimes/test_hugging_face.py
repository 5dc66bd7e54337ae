"""An exported model answers through edgetok as it does through Hugging Face's own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgetok.runtimes.answers.model import Model
from edgetok.runtimes.load import load

NEW_TOKENS = 6
QUESTIONS = ["What is it?", "What is on the left of 12?", "a", "  two  spaces\nand a line"]


@pytest.fixture(scope="module")
def exported(bundle: Path) -> Model:
    """Its largest rung has all visual tokens: nothing but the runtime can make a difference."""
    return load(bundle, threads=1)


@pytest.fixture(scope="module")
def reference(model_dir: Path) -> Any:
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(model_dir).eval()
    processor = AutoProcessor.from_pretrained(model_dir, use_fast=False)
    processor.patch_size = model.config.vision_config.patch_size
    processor.num_additional_image_tokens = 1
    processor.vision_feature_select_strategy = "default"
    return model, processor


def ask(reference: Any, image: Image.Image, question: str) -> tuple[Any, list[int]]:
    """Inputs and greedy answer of the model itself."""
    import torch

    model, processor = reference
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    inputs = processor(images=image, text=text, return_tensors="pt")
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    return inputs, out[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("question", QUESTIONS)
def test_answers_are_equal(exported: Model, reference: Any, question: str) -> None:
    pixels = np.random.default_rng(len(question)).integers(0, 256, (37, 53, 3), np.uint8)
    inputs, wanted = ask(reference, Image.fromarray(pixels), question)
    prompt = exported.processor.encode(question)
    image_id = reference[0].config.image_token_id
    text_ids = [i for i in inputs["input_ids"][0].tolist() if i != image_id]
    assert [*prompt.before, *prompt.after] == text_ids
    np.testing.assert_allclose(
        exported.processor.pixels(pixels), inputs["pixel_values"].numpy(), atol=1e-6
    )
    assert list(exported.generate(pixels, question, max_new_tokens=NEW_TOKENS).token_ids) == wanted


TURNS = ["What is it?", "a red circle", "  What is\nin the picture?"]


def render(processor: Any, questions: list[str], answers: list[str]) -> str:
    """The whole conversation as the model's own template writes it."""
    messages = [user(questions[0], {"type": "image"})]
    for answer, question in zip(answers, questions[1:], strict=True):
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        messages.append(user(question))
    return str(processor.apply_chat_template(messages, add_generation_prompt=True))


def user(question: str, *extra: dict[str, str]) -> dict[str, Any]:
    return {"role": "user", "content": [*extra, {"type": "text", "text": question}]}


def test_conversations_are_equal(exported: Model, reference: Any) -> None:
    """Greedy answers of each turn against `generate` on all that was said before.

    The random model's answers are no text that tokenizes to the same ids, so its ids stand where
    the template has the answers; what it writes around them is tokenized by Hugging Face.
    """
    import torch

    model, processor = reference
    pixels = np.random.default_rng(9).integers(0, 256, (37, 53, 3), np.uint8)
    talk = exported.converse(pixels)
    mark = "\ue0a5"
    answers: list[list[int]] = []
    for number in range(1, 1 + len(TURNS)):
        text = render(processor, TURNS[:number], [mark] * (number - 1))
        first, *later = text.split(f" {mark}")
        inputs = processor(images=Image.fromarray(pixels), text=first, return_tensors="pt")
        ids = inputs["input_ids"][0].tolist()
        for answer, piece in zip(answers, later, strict=True):
            ids += answer + processor.tokenizer(piece, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            whole = torch.tensor([ids])
            out = model.generate(
                input_ids=whole,
                attention_mask=torch.ones_like(whole),
                pixel_values=inputs["pixel_values"],
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
            )
        wanted = out[0, len(ids) :].tolist()
        got = list(talk.ask(TURNS[number - 1], max_new_tokens=NEW_TOKENS).token_ids)
        assert got == wanted
        answers.append([i for i in got if i != model.generation_config.eos_token_id])
