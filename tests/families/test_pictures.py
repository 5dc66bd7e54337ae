"""Several pictures in a prompt, beside Hugging Face's `generate` with the same pictures."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoImageProcessor

import edgetok
from edgetok.bundle.reader import Bundle
from edgetok.errors import UsageError
from edgetok.export.cases import split_prompt
from edgetok.export.pipeline import export_model
from edgetok.export.reference import Reference
from edgetok.families import OF_SEVERAL, open_model
from edgetok.methods import find_method

ROWS = ("llava_onevision", "internvl", "smolvlm")
QUESTION = "What is in the picture?"
COUNT = 3


@pytest.fixture(scope="module")
def tiny(load_helper: object) -> ModuleType:
    return load_helper("families/tiny_families")  # type: ignore[operator]


@pytest.mark.parametrize("name", ROWS)
def test_parts_answer_as_hugging_face_does(tiny: ModuleType, tmp_path: Path, name: str) -> None:
    """All tokens of three pictures, in the places that the family's processor has for them."""
    parts = open_model(tiny.write_tiny(tmp_path / "model", name), pictures=COUNT)
    reference = Reference(parts, find_method("pool").for_pictures(COUNT))
    processor = AutoImageProcessor.from_pretrained(tmp_path / "model")
    tokenizer = Tokenizer.from_file(str(tmp_path / "model/tokenizer.json"))
    before, after = split_prompt(parts.prompt, tokenizer, QUESTION)
    visual = range(len(before), len(before) + parts.full_tokens)
    hugging_face = tiny.HuggingFace(tmp_path / "model", name)
    for seed in range(2):
        shown = tiny.pictures(COUNT, seed)
        pixels = torch.cat([parts.process(processor, picture) for picture in shown])
        made = reference.compress(reference.encode(pixels), parts.full_tokens)
        embeds = reference.embed(before, made["visual_tokens"], after)
        got = reference.answer(embeds, 12, visual, made=made)
        want, ids = hugging_face.ask(pixels, QUESTION, _rows_of_one(tiny, tmp_path), COUNT)
        assert got.ids == ids
        assert (got.logits - want).abs().max() < 1e-3


def _rows_of_one(tiny: ModuleType, path: Path) -> int:
    return open_model(path / "model").full_tokens
