"""Prefill in segments: each exit against Hugging Face's layers, in graphs and in bundles."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import edgetok
from edgetok import names
from edgetok.bundle.reader import Bundle
from edgetok.errors import InputError, UsageError, VerificationError
from edgetok.export.parity.sessions import GraphRunner
from edgetok.export.pipeline import export_model
from edgetok.export.reference.prompt_reduced import PrefillReference
from edgetok.export.stages import prompt_segments as segments
from edgetok.export.stages.prompt_rows import Rows
from edgetok.families import open_model
from edgetok.families.parts import Parts
from edgetok.ladder import build_ladder
from edgetok.prefill import Prefill, find_prefill
from edgetok.prefill.dyvte_signal import learn
from edgetok.runtimes.verify import verify

ROOM, STEPS, LAYERS, VISUAL = 24, 12, 4, 16
PROMPTS = [(3, 5), (0, 24), (12, 1)]  # text rows in front of the image and behind it
SMALL: dict[str, Any] = {"prompt_tokens": 64, "new_tokens": 32, "parity_images": 1}
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def deep_dir(tiny_llava: ModuleType, tmp_path_factory: Any) -> Path:
    path: Path = tmp_path_factory.mktemp("deep")
    tiny_llava.write_tiny_llava(path, shape={"num_hidden_layers": LAYERS})
    return path


@pytest.fixture(scope="module")
def deep(deep_dir: Path) -> Parts:
    return open_model(deep_dir)


def make_routers(width: int = 64) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"hidden": (8, 2 * width), "out": (2, 8), "out_bias": (2,)}
    return {
        f"exits.{layer}.{part}": torch.randn(shape, generator=generator)
        for layer in (1, 3)
        for part, shape in shapes.items()
    }


def chosen(text: str) -> Prefill:
    found = find_prefill(text)
    assert found is not None
    return found


@pytest.mark.parametrize("routed", [False, pytest.param(True, marks=slow)])
def test_every_exit_is_hugging_face_s(
    building: ModuleType, routed: bool, deep: Parts, tmp_path: Path
) -> None:
    """Those that the signals choose and all others, and the signals themselves."""
    prefill = chosen("dyvte-signal:0.42")
    if routed:
        prefill = replace(prefill, method=learn(make_routers()))
    ladder = build_ladder((VISUAL,), ROOM, STEPS + 2)
    builder = building.make_builder(deep, ladder, building.keep_rows(ladder, prefill))
    stages = ("prefill", "decode", names.SEGMENT, names.EXITED)
    runner: GraphRunner = building.open_graphs(builder, tmp_path, *stages)
    reference = PrefillReference(replace(deep.text, stop_ids=()), prefill, VISUAL)
    for before, after in PROMPTS:
        generator = torch.Generator().manual_seed(before)
        n = before + VISUAL + after
        embeds = torch.randn(1, n, deep.text.hidden, generator=generator)
        for leave in (None, *reference.exits, LAYERS):
            want = reference.answer(embeds, before, STEPS, leave=leave)
            logits, ids = runner.answer(VISUAL, embeds[0].numpy(), STEPS, (), before, leave)
            assert (runner.left, ids) == (want.left, want.ids)
            assert leave in (None, runner.left)
            assert runner.signals == pytest.approx(want.signals, rel=1e-5, abs=1e-4)
            np.testing.assert_allclose(logits, want.logits.numpy(), rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def bundle(deep_dir: Path, samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both flavours and two rungs; the ratio lies among the signals of a random model."""
    out = tmp_path_factory.mktemp("bundles") / "x.bundle"
    options = {"prefill": "dyvte-signal:0.25", "method": "pool", "flavour": "portable"}
    export_model(deep_dir, out, budgets="6,full", samples=samples, **options, **SMALL)
    return out


@slow
def test_a_bundle_leaves_where_its_graphs_say(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    assert manifest.prefill.exits == [1, 2, 3]
    assert manifest.kv.slots == [16 + 64 + 32] * LAYERS
    checks = json.loads((bundle / "reports/parity.json").read_text())["checks"]
    proved = {c["stage"] for c in checks if "leaving" in c["stage"]}
    kinds = ("prefill", "decode", "portable prefill", "portable decode")
    assert proved == {f"{kind} leaving at {layer}" for kind in kinds for layer in (1, 2, 3, 4)}
    found: dict[str, list[Any]] = {"ort": [], "portable": []}
    for flavour, answers in found.items():
        model = edgetok.load(bundle, flavour=flavour, threads=1)
        verify(Bundle.open(bundle), model).require_passed()
        random = np.random.default_rng(0)
        for budget in (6, 16) * 6:
            rows = random.normal(size=(budget + 14, 64)).astype(np.float32)
            rows[5 : 5 + budget] *= random.uniform(0.1, 3)
            runtime = model.runtime
            logits = [runtime.prefill(model.ladder.rung(budget), rows, visual_start=5).copy()]
            logits += [runtime.step(token).copy() for token in range(5, 10)]
            answers.append((runtime.exit_layer, np.stack(logits)))
            left = [14 if layer >= (runtime.exit_layer or 0) else budget + 14 for layer in range(4)]
            assert runtime._rows.lengths.tolist() == [n + 5 for n in left]  # type: ignore[attr-defined]
    layers = [layer for layer, _ in found["ort"]]
    assert len(set(layers)) > 1 and layers == [layer for layer, _ in found["portable"]]
    for (_, want), (_, got) in zip(found["ort"], found["portable"], strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)


@slow
def test_an_answer_says_where_tokens_left(bundle: Path) -> None:
    """And goes on behind what the cache holds."""
    model = edgetok.load(bundle, threads=1)
    image = np.random.default_rng(1).integers(0, 255, (20, 20, 3), dtype=np.uint8)
    answer = model.generate(image, "What is it?", max_new_tokens=5)
    assert answer.exit_layer in (1, 2, 3, 4) and answer.exit_layer == model.runtime.exit_layer
    talk = model.converse(image)
    first, second = talk.ask("What?", max_new_tokens=3), talk.ask("Why?", max_new_tokens=3)
    assert first.exit_layer == second.exit_layer and second.reused_rows > 0


@slow
def test_a_bundle_holds_its_routers(deep_dir: Path, tmp_path: Path) -> None:
    save_file(make_routers(), str(tmp_path / "w"))
    routers = {"prefill": "dyvte-signal", "exit_weights": tmp_path / "w", "method": "pool"}
    export_model(deep_dir, tmp_path / "x.bundle", budgets="full", **routers, **SMALL)
    manifest = Bundle.open(tmp_path / "x.bundle").manifest
    assert (manifest.prefill.method, manifest.prefill.exits) == ("dyvte-signal+learned", [1, 3])
    image = np.zeros((20, 20, 3), np.uint8)
    answer = edgetok.load(tmp_path / "x.bundle").generate(image, "What?", max_new_tokens=4)
    assert answer.exit_layer in (1, 3, 4)


@slow
@pytest.mark.parametrize("weights", ["fp32", "int8"])
def test_quantized_bundles_leave_too(
    weights: str, model_dir: Path, samples: Path, tmp_path: Path
) -> None:
    options = {**SMALL, "samples": samples, "weights": weights, "kv": "int8", "method": "pool"}
    export_model(model_dir, tmp_path / "x", budgets="full", prefill="dyvte-signal:0.3", **options)
    assert Bundle.open(tmp_path / "x").manifest.prefill.exits == [1]
    image = np.zeros((20, 20, 3), np.uint8)
    answer = edgetok.load(tmp_path / "x").generate(image, "What?", max_new_tokens=4)
    assert answer.exit_layer in (1, 2)


@slow
def test_a_wrong_exit_is_seen(
    deep_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text rows that take the places of visual ones: the last of them are lost."""
    monkeypatch.setattr(
        Rows, "drop_all_vision", lambda self: replace(self, x=self.x[:, self.span.visual :])
    )
    with pytest.raises(VerificationError, match=r"prefill leaving at 1 at 16: .* of logits"):
        export_model(
            *(deep_dir, tmp_path / "x.bundle"), budgets="full", prefill="dyvte-signal", **SMALL
        )
    assert list(tmp_path.iterdir()) == []


def test_routers_of_another_model_are_refused(deep_dir: Path, tmp_path: Path) -> None:
    save_file(make_routers(width=32), str(tmp_path / "w"))
    options = {"prefill": "dyvte-signal", "exit_weights": tmp_path / "w"}
    with pytest.raises(InputError, match="are for rows of 32 numbers, and this decoder has 64"):
        export_model(deep_dir, tmp_path / "x.bundle", **options, **SMALL)
    for more, words in (
        ({"kv": "kivi"}, "fills all layers alike and dyvte-signal takes rows away"),
        ({"kv_policy": "h2o"}, "dyvte-signal takes rows away at prefill and h2o packs"),
    ):
        with pytest.raises(UsageError, match=words):
            export_model(deep_dir, tmp_path / "x.bundle", prefill="dyvte-signal", **more)
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_segments_lie_between_exits() -> None:
    parts = segments.list_segments(chosen("dyvte-signal"), 32)
    assert [(part.start, part.stop) for part in parts] == [(0, 8), (8, 16), (16, 24), (24, 32)]
    assert segments.list_segments(chosen("dyvte"), 32) == segments.list_segments(None, 32) == []
    assert names.rows_before(8) != names.text_rows_before(8)
