"""Conversations of the demo model, which was trained on them, against Hugging Face's generate."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgetok.runtimes.load import load

DEMO = Path(__file__).parents[2] / "examples" / "demo_vlm"
TURNS, NEW_TOKENS = 20, 16

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Two conversations of up to 20 turns from the calibrate split, images opened."""
    folder = tmp_path_factory.mktemp("conversations")
    maker = [sys.executable, "make.py", "--split", "calibrate", "--form", "conversations"]
    subprocess.run([*maker, "--count", "2", "-o", str(folder)], cwd=DEMO, check=True)
    lines = (folder / "conversations.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [each | {"image": Image.open(folder / each["image"]).convert("RGB")} for each in found]


def generate(model: Any, processor: Any, image: Image.Image, said: list[str]) -> tuple[Any, Any]:
    """Text ids of the whole conversation as its template renders it, and the greedy answer."""
    import torch

    messages = []
    for number, text in enumerate(said):
        content: list[dict[str, str]] = [{"type": "text", "text": text}]
        if number == 0:
            content.insert(0, {"type": "image"})
        messages.append({"role": ("user", "assistant")[number % 2], "content": content})
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(images=image, text=text, return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    ids = inputs["input_ids"][0].tolist()
    image_id = model.config.image_token_id
    return [i for i in ids if i != image_id], out[0, len(ids) :].tolist()


@pytest.mark.slow
def test_long_conversations_are_equal(conversations: list[dict[str, Any]], tmp_path: Path) -> None:
    """Text in, text out: the answers' text tokenizes to the ids that were generated."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    from edgetok.export.pipeline import export_model

    export_model(DEMO / "checkpoint", tmp_path / "demo.bundle", budgets="full", new_tokens=400)
    model = load(tmp_path / "demo.bundle")
    hugging_face = LlavaForConditionalGeneration.from_pretrained(DEMO / "checkpoint").eval()
    processor = AutoProcessor.from_pretrained(DEMO / "checkpoint")
    compared = 0
    for each in conversations:
        talk, said = model.converse(each["image"]), []
        prompt = model.processor.encode(each["turns"][0]["prompt"])
        ids = [*prompt.before, *prompt.after]
        for turn in each["turns"][:TURNS]:
            said.append(turn["prompt"])
            if len(said) > 1:
                ids += model.processor.encode_turn(turn["prompt"])
            text_ids, wanted = generate(hugging_face, processor, each["image"], said)
            assert ids == text_ids
            answer = talk.ask(turn["prompt"], max_new_tokens=NEW_TOKENS)
            assert list(answer.token_ids) == wanted
            assert answer.stop_reason == "stop"
            if len(said) > 1:
                assert answer.reused_rows == 576 + len(ids) - answer.prompt_tokens
            said.append(answer.text.strip())
            ids += answer.token_ids[:-1]
            compared += 1
    assert compared >= TURNS
