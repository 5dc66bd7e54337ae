"""Caches of every kind: what decoders remember beside keys and values, and rows in rings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgetok.bundle.buffers import cache_bytes, list_buffers

PROMPT, NEW = 64, 48
TEXTS = ["What is it?", "", "wie viele? zähle!"]
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def answers(load_helper: Callable[[str], ModuleType]) -> ModuleType:
    """The module test_answers.py."""
    return load_helper("runtimes/cpp/test_answers")


@pytest.fixture(scope="module")
def export(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A bundle of which nothing but the room in its cache ends an answer."""
    from edgetok.export.pipeline import export_model

    def make(model: Path, **options: Any) -> Path:
        folder = tmp_path_factory.mktemp("caches") / "x.bundle"
        sizes = {"prompt_tokens": PROMPT, "new_tokens": NEW, "parity_images": 1}
        export_model(model, folder, **{"budgets": "full", "method": "pool"} | sizes | options)
        tiny.edit_manifest(folder, lambda tree: tree["text"].update(stop_ids=[]))
        return folder

    return make


def ask_all(both: Any) -> list[Any]:
    """Answers to a few questions about a few pictures, on every rung: the same in both."""
    random, found = np.random.default_rng(3), []
    for number in range(4):
        grey = random.integers(60, 256)
        picture = random.integers(0, grey, (20 + number, 24, 3), np.uint8)
        picture = 255 - picture if number % 2 else picture
        for text in TEXTS:
            for budget in both.python.ladder.budgets:
                both.require_same(picture, text, budget)
                found.append(both.ask_cpp(picture, text, budget=budget))
    return found


@pytest.mark.parametrize("recipe", [{"convolution": True}, {"exits": True}], ids=str)
def test_hand_made_decoders(answers, library, capi, tiny_vlm, tmp_path: Path, recipe) -> None:
    folder = tiny_vlm.write(tmp_path / "x.bundle", tiny_vlm.Recipe(stop_ids=(), **recipe))
    both = answers.Both(library, capi, folder)
    found = ask_all(both)
    assert {len(answer.tokens) for answer in found} == {tiny_vlm.NEW_TOKENS}
    assert {answer.exit_layer for answer in found} == ({1, 2} if "exits" in recipe else {-1})
    assert both.cpp.memory["cache_bytes"] == cache_bytes(both.python.manifest)


@pytest.mark.parametrize("recipe", [{"convolution": True}, {"exits": True}], ids=str)
def test_what_they_hold_is_used_again(pairs, library, capi, tiny_vlm, tmp_path, recipe) -> None:
    """Rows are put behind what the cache holds, and never taken back."""
    folder = tiny_vlm.write(tmp_path / "x.bundle", tiny_vlm.Recipe(stop_ids=(), **recipe))
    pair = pairs.Pair(library, capi, folder)
    shown = pairs.picture(1)
    asked = [pair.ask(shown, text, 4, max_new_tokens=2) for text in ("Hi", "Hi", "Hi there", "Ha")]
    assert {answer.reused for answer in asked} == {0}
    talk = pair.converse(shown, 4)
    turns = [talk.ask(text, max_new_tokens=2) for text in ("Hi", "a", "b")]
    assert [turn.reused > 0 for turn in turns] == [False, True, True]


@slow
@pytest.mark.parametrize("flavour", ["ort", "portable"])
def test_short_convolutions_remember(
    answers, library, capi, tiny_llava, export, tmp_path: Path, flavour: str
) -> None:
    model = tiny_llava.write_tiny_llava(tmp_path / "model", decoder="lfm2")
    both = answers.Both(library, capi, export(model, flavour=flavour), flavour=flavour)
    memories = [n for n in list_buffers(both.python.manifest, flavour) if "convolution" in n]
    assert len(memories) == 3
    assert {len(answer.tokens) for answer in ask_all(both)} == {NEW}


@slow
@pytest.mark.parametrize("flavour", ["ort", "portable"])
def test_visual_rows_leave_where_they_do_in_python(
    answers, library, capi, tiny_llava, export, tmp_path: Path, flavour: str
) -> None:
    model = tiny_llava.write_tiny_llava(tmp_path / "model", shape={"num_hidden_layers": 4})
    folder = export(model, prefill="dyvte-signal:0.25", budgets="6,full", flavour=flavour)
    both = answers.Both(library, capi, folder, flavour=flavour)
    assert both.python.manifest.prefill.exits == [1, 2, 3]
    assert len({answer.exit_layer for answer in ask_all(both)}) > 1


RINGS = [
    *((kv, "ort") for kv in ("kivi", "kivi4", "zipcache", "think")),
    *((kv, "portable") for kv in ("kivi", "zipcache", "think")),
]


@slow
@pytest.mark.parametrize(("kv", "flavour"), RINGS)
def test_rows_wait_in_a_ring(
    answers, library, capi, model_dir: Path, export, kv: str, flavour: str
) -> None:
    """An answer is longer than the ring, which is packed once or twice on the way."""
    folder = export(model_dir, kv=kv, flavour=flavour, budgets="4,full")
    both = answers.Both(library, capi, folder, flavour=flavour)
    assert 0 < both.python.manifest.kv.ring < NEW
    assert both.cpp.memory["cache_bytes"] == cache_bytes(both.python.manifest, flavour)
    assert {len(answer.tokens) for answer in ask_all(both)} == {NEW}


@pytest.mark.parametrize("flavour", ["ort", pytest.param("portable", marks=slow)])
def test_rows_of_float16(
    answers, library, capi, model_dir: Path, export, tmp_path: Path, flavour: str
) -> None:
    """A store that C++ was never told of: its buffers are what graphs list."""
    folder = export(model_dir, kv="fp16", flavour=flavour, budgets="4,full")
    both = answers.Both(library, capi, folder, flavour=flavour)
    assert both.cpp.memory["cache_bytes"] == cache_bytes(both.python.manifest, flavour)
    assert {len(answer.tokens) for answer in ask_all(both)} == {NEW}


@slow
def test_nothing_is_filed_beyond_a_tier(
    answers, library, capi, tiny, model_dir: Path, export
) -> None:
    """A prefill that lies about what it filled: the next full ring would go who knows where."""
    folder = export(model_dir, kv="zipcache")
    both = answers.Both(library, capi, folder)
    filled = both.ask_cpp(np.zeros((9, 9, 3), np.uint8), "Hi", max_new_tokens=1)
    rows = len(filled.kept) + both.python.processor.encode("Hi").tokens
    file = folder / "onnx/ort/prefill_16.onnx"
    model = onnx.load(file, load_external_data=False)
    for node in model.graph.node:
        node.output[:] = ["unused" if n == "present_filled_0" else n for n in node.output]
    lie = helper.make_tensor("lie", onnx.TensorProto.INT32, [2], [10**9, rows - 10**9])
    model.graph.node.append(helper.make_node("Constant", [], ["present_filled_0"], value=lie))
    file.write_bytes(model.SerializeToString())
    tiny.seal(folder)
    model = capi.Model(capi.Bundle(library, folder), threads=1)
    prompt = both.python.processor.encode("Hi")
    image = model.image(np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(capi.Failure, match=r"past_high_.* do not fit there from row 1000000000 on"):
        model.generate(image, prompt.before, prompt.after)
