"""Caches of every kind: what decoders remember beside keys and values, and rows in rings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgetok.export.pipeline import export_model

PROMPT, NEW = 64, 48
TEXTS = ["What is it?", "", "wie viele? zähle!"]
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def answers(load_helper: Callable[[str], ModuleType]) -> ModuleType:
    """The module test_answers.py."""
    return load_helper("runtimes/cpp/test_answers")


@pytest.fixture(scope="module")
def export(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A bundle that nothing but the room in its cache ends an answer of."""

    def make(model: Path, **options: Any) -> Path:
        folder = tmp_path_factory.mktemp("caches") / "x.bundle"
        sizes = {"prompt_tokens": PROMPT, "new_tokens": NEW, "parity_images": 1}
        export_model(model, folder, **{"budgets": "4,full", "method": "pool"} | sizes | options)
        tiny.edit_manifest(folder, lambda tree: tree["text"].update(stop_ids=[]))
        return folder

    return make


def require_same(both: Any) -> None:
    """Answers to a few questions about two pictures, on every rung; to the end of the cache."""
    random = np.random.default_rng(3)
    lengths = []
    for number, text in enumerate(TEXTS):
        picture = random.integers(0, 256, (20 + number, 24, 3), np.uint8)
        for budget in both.python.ladder.budgets:
            both.require_same(picture, text, budget)
            lengths.append(len(both.ask_cpp(picture, text, budget=budget).tokens))
    assert min(lengths) == NEW


@pytest.mark.parametrize("flavour", ["ort", pytest.param("portable", marks=slow)])
def test_short_convolutions_remember(
    answers, library, capi, tiny_llava, export, tmp_path: Path, flavour: str
) -> None:
    model = tiny_llava.write_tiny_llava(tmp_path / "model", decoder="lfm2")
    folder = export(model, flavour=flavour)
    both = answers.Both(library, capi, folder, flavour=flavour)
    assert both.python.manifest.kv.convolutions == 3
    require_same(both)


RINGS = [
    ("kivi", "ort"),
    ("zipcache", "ort"),
    ("think", "ort"),
    pytest.param("kivi4", "ort", marks=slow),
    *(pytest.param(kv, "portable", marks=slow) for kv in ("kivi", "zipcache", "think")),
]


@pytest.mark.parametrize(("kv", "flavour"), RINGS)
def test_rows_wait_in_a_ring(
    answers, library, capi, model_dir: Path, export, held_bytes, kv: str, flavour: str
) -> None:
    """An answer is longer than the ring, which is packed once or twice on the way."""
    both = answers.Both(library, capi, export(model_dir, kv=kv, flavour=flavour), flavour=flavour)
    assert 0 < both.python.manifest.kv.ring < NEW
    require_same(both)
