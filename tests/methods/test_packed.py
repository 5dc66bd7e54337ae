"""Answers read off one packed pass are those of greedy decoding."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from edgetok.export.reference.model import Reference
from edgetok.families import open_model
from edgetok.methods import METHODS

PROMPTS = ((5, 6, 7), (8, 9), (10, 11, 12, 13))
NEW_TOKENS = 5


@pytest.fixture(scope="module")
def packed() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks/packed.py"
    spec = importlib.util.spec_from_file_location("packed", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules["packed"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_packed_answers_are_those_of_greedy_decoding(packed: ModuleType, model_dir: Path) -> None:
    parts = open_model(model_dir)
    reference = Reference(parts, METHODS["random"])
    generator = torch.Generator().manual_seed(0)
    visual = torch.randn(3, 4, parts.text.hidden, generator=generator)
    before = [1, 4]
    rows, expected = [], []
    for number, tokens in enumerate(visual):
        row = []
        for place, prompt in enumerate(PROMPTS):
            embeds = reference.embed(before, tokens, list(prompt))
            answer = tuple(reference.answer(embeds, NEW_TOKENS).ids)
            spoiled = place == number  # one question of each image is given a wrong answer
            last = answer[-1] + 1 if spoiled else answer[-1]
            row.append(packed.Asked(prompt, (*answer[:-1], last)))
            expected.append(not spoiled)
        rows.append(row)
    rows[0] = rows[0][::-1]  # rows need not ask the same
    found = packed.answer_all(parts.text, before, visual, rows)
    assert [*found[0][::-1], *found[1], *found[2]] == expected
