"""Every family against Hugging Face's `generate`, and its image processor against theirs."""

from __future__ import annotations

import io
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

import edgetok
from edgetok.bundle.golden import load_golden
from edgetok.bundle.reader import Bundle
from edgetok.export.pipeline import ExportReport, export_model
from edgetok.families import open_model
from edgetok.runtimes.preprocess import preprocess

QUICK = ("llava_next 1x2", "llava_onevision", "internvl", "smolvlm 2x1", "gemma3", "paligemma")
ROWS = (*QUICK, "llava_onevision 2x2", "smolvlm", "idefics3 1x2", "paligemma 2")
QUESTION = "What is in the picture?"


@pytest.fixture(scope="module")
def tiny(load_helper: object) -> ModuleType:
    return load_helper("families/tiny_families")  # type: ignore[operator]


def export(tiny: ModuleType, path: Path, name: str, **options: object) -> ExportReport:
    family = tiny.FAMILIES[name]
    settings = {"method": family.methods[0], "prompt_tokens": 48, "new_tokens": 16}
    return export_model(
        path / "model",
        path / "out.bundle",
        tiles=family.tiles,
        force=True,
        **settings | {"budgets": "3,full", "parity_images": 1} | options,
    )


@pytest.mark.parametrize("name", QUICK)
def test_family_answers_as_hugging_face_does(tiny: ModuleType, tmp_path: Path, name: str) -> None:
    tiny.write_tiny(tmp_path / "model", name)
    export(tiny, tmp_path, name)
    bundle = Bundle.open(tmp_path / "out.bundle")
    full = bundle.manifest.vision.full_tokens
    parts = open_model(tmp_path / "model", tiny.FAMILIES[name].tiles)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "model")
    reference = tiny.HuggingFace(tmp_path / "model", name)
    (case,) = load_golden(bundle)
    picture = Image.open(io.BytesIO(bundle.read(case.image))).convert("RGB")
    logits, ids = reference.ask(parts.process(processor, picture), case.prompt, full)
    assert case.rungs[full].answer_ids.tolist() == ids
    assert np.abs(case.rungs[full].logits - logits[0].numpy()).max() < 1e-3
    for picture in tiny.pictures(4):
        want = parts.process(processor, picture).numpy()
        assert np.abs(preprocess(picture, parts.image) - want).max() < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["groups of 3, head 64", "groups of 7, head 80", "head 256"])
@pytest.mark.parametrize("name", ROWS)
def test_twenty_prompts_at_every_shape(
    tiny: ModuleType, tmp_path: Path, name: str, shape: str
) -> None:
    """Two methods at two budgets pass the gate; the full budget gives `generate`'s tokens."""
    family = tiny.FAMILIES[name]
    tiny.write_tiny(tmp_path / "model", name, shape)
    for method in family.methods[1:]:
        export(tiny, tmp_path, name, method=method, budgets="3,4,full")
    report = export(tiny, tmp_path, name, budgets="3,4,full", flavour="portable")
    assert {c["stage"] for c in report.parity["checks"]} >= {"portable prefill", "prefill"}
    parts = open_model(tmp_path / "model", family.tiles)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "model")
    reference = tiny.HuggingFace(tmp_path / "model", name)
    models = [edgetok.load(tmp_path / "out.bundle", flavour=f) for f in ("ort", "portable")]
    for number, picture in enumerate(tiny.pictures(20, seed=1)):
        question = f"What is {number}?"
        pixels = parts.process(processor, picture)
        _, ids = reference.ask(pixels, question, parts.full_tokens)
        for model in models:
            array = np.asarray(picture)
            got = model.generate(array, question, budget=parts.full_tokens, max_new_tokens=12)
            stop = [2] if got.stop_reason == "stop" else []
            assert [*got.token_ids, *stop][: len(ids)] == ids


def test_tokens_of_a_cell_are_those_of_the_pixel_shuffle() -> None:
    """`merge_cells` against a loop over cells and the patches in them."""
    from edgetok.families.parts import merge_cells

    rows = torch.rand(2, 6 * 4, 5)
    merged = merge_cells(rows, (3, 2), 2)
    for part in range(2):
        for token in range(6):
            down, across = divmod(token, 2)
            patches = [(2 * down + y) * 4 + 2 * across + x for y in (0, 1) for x in (0, 1)]
            want = torch.cat([rows[part, patch] for patch in patches])
            assert torch.equal(merged[part, token], want)
