"""Every family against Hugging Face's `generate`, and its image processor against theirs."""

from __future__ import annotations

import importlib.util
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer

import edgetok
from edgetok.bundle.golden import load_golden
from edgetok.bundle.reader import Bundle
from edgetok.calibration.samples import Sample
from edgetok.errors import InputError, UsageError
from edgetok.export.cases import make_cases, split_prompt
from edgetok.export.parity.sessions import GraphRunner
from edgetok.export.pipeline import ExportReport, export_model
from edgetok.export.reference.model import Reference
from edgetok.families import FAMILIES, Parts, open_model
from edgetok.images.preprocess import preprocess
from edgetok.ladder import build_ladder
from edgetok.methods import find_method

ROWS = (
    *("llava_next 1x2", "llava_onevision", "llava_onevision 2x2", "internvl"),
    *("smolvlm", "smolvlm 2x1", "idefics3 1x2", "gemma3", "paligemma", "paligemma 2"),
    *("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "lfm2_vl"),
    *("fast_vlm", "perception_lm"),
)
OF_TIMM = ("fast_vlm", "perception_lm")
QUESTION = "What is in the picture?"
WINDOWED = ("gemma3", "paligemma 2")  # the portable flavour has no windows
SHAPES = ("groups of 3, head 64", "groups of 7, head 80", "head 256")
OTHER_SHAPES = ("groups of 3, head 96", "groups of 7, head 128")
ODD = [  # each row at two shapes
    (name, shape)
    for number, name in enumerate(ROWS)
    for shape in (SHAPES[number % 3], OTHER_SHAPES[number % 2])
]


@pytest.fixture(scope="module")
def tiny(load_helper: object) -> ModuleType:
    return load_helper("families/tiny_families")  # type: ignore[operator]


@pytest.fixture(scope="module")
def odd(load_helper: object) -> ModuleType:
    return load_helper("families/odd_pictures")  # type: ignore[operator]


@pytest.fixture(scope="module")
def classes(load_helper: object) -> ModuleType:
    return load_helper("families/processor_classes")  # type: ignore[operator]


def require_tower_of(name: str) -> None:
    """Skip a family whose tower nobody has installed."""
    if name in OF_TIMM:
        pytest.importorskip("timm", reason="timm (or its torchvision) is missing")


def export(tiny: ModuleType, path: Path, name: str, **options: object) -> ExportReport:
    family = tiny.FAMILIES[name]
    settings = {"method": family.methods[0], "prompt_tokens": 48, "new_tokens": 16}
    return export_model(
        path / "model",
        path / "out.bundle",
        tiles=family.tiles,
        size_px=family.size_px,
        force=True,
        **settings | {"budgets": "3,full", "parity_images": 1} | options,
    )


def compare_golden(tiny: ModuleType, path: Path, name: str) -> float:
    """The full budget's golden case: the same tokens as `generate`, and how far its logits are."""
    bundle = Bundle.open(path / "out.bundle")
    full = bundle.manifest.vision.full_tokens
    parts = open_model(path / "model", tiny.FAMILIES[name].tiles, tiny.FAMILIES[name].size_px)
    processor = parts.open_processor(parts.path)
    (case,) = load_golden(bundle)
    picture = Image.open(io.BytesIO(bundle.read(case.image))).convert("RGB")
    reference = tiny.HuggingFace(path / "model", name)
    logits, ids = reference.ask(parts.process(processor, picture), case.prompt, full)
    assert case.rungs[full].answer_ids.tolist() == ids
    return float(np.abs(case.rungs[full].logits - logits[0].numpy()).max())


def compare_pixels(tiny: ModuleType, path: Path, name: str) -> float:
    """How far our image processor is from the family's, over pictures of several shapes."""
    parts = open_model(path / "model", tiny.FAMILIES[name].tiles, tiny.FAMILIES[name].size_px)
    processor = parts.open_processor(parts.path)
    found = []
    for picture in tiny.pictures(6):
        want = parts.process(processor, picture).numpy()
        found.append(np.abs(preprocess(picture, parts.image) - want).max())
    return float(max(found))


@pytest.mark.parametrize("name", ROWS)
def test_parts_answer_as_hugging_face_does(
    tiny: ModuleType, odd: ModuleType, classes: ModuleType, tmp_path: Path, name: str
) -> None:
    """What the family file says, put together in PyTorch: the reference of every graph."""
    require_tower_of(name)
    family = tiny.FAMILIES[name]
    parts = open_model(tiny.write_tiny(tmp_path / "model", name), family.tiles, family.size_px)
    reference = Reference(parts, find_method("pool"))
    processor = parts.open_processor(parts.path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "model/tokenizer.json"))
    before, after = split_prompt(parts.prompt.plan, tokenizer, QUESTION)
    visual = range(len(before), len(before) + parts.full_tokens)
    for picture in tiny.pictures(2):
        pixels = parts.process(processor, picture)
        made = reference.compress(reference.encode(pixels), parts.full_tokens)
        embeds = reference.embed(before, made["visual_tokens"], after)
        got = reference.answer(embeds, 12, visual, made=made)
        want, ids = tiny.HuggingFace(tmp_path / "model", name).ask(pixels, QUESTION, len(visual))
        assert got.ids == ids
        assert (got.logits - want).abs().max() < 1e-3
    assert compare_pixels(tiny, tmp_path, name) < 1e-6
    require_odd_pictures_agree(odd, parts, processor)
    if name in classes.CLASSES:
        require_prompt_of_class(classes, parts, name, (before, after))


def require_prompt_of_class(
    classes: ModuleType, parts: Parts, name: str, around: tuple[list[int], list[int]]
) -> None:
    """The family's processor class writes the same ids around as many rows of the image."""
    processor = parts.open_processor(parts.path)
    try:
        ids = classes.ask(parts.path, name, QUESTION, processor)
    except ImportError:  # of a package that only this class needs
        return
    before, after = around
    assert (ids[: len(before)], ids[-len(after) :]) == around
    assert len(ids) == len(before) + parts.full_tokens + len(after)
    token = parts.model.config.image_token_id
    assert ids[len(before) :].count(token) >= parts.vision.full_tokens


def require_odd_pictures_agree(odd: ModuleType, parts: Parts, processor: object) -> None:
    """Each kind is processed as the family's processor does, or refused with a sentence."""
    found = odd.compare(parts, processor)
    refused = {kind for kind, value in found.items() if value == odd.REFUSED}
    assert {*odd.DEEP, "huge"} <= refused <= {*odd.DEEP, "huge", "1 x 3000", "3000 x 1"}
    limit = odd.tolerance(processor)
    far = {kind: found[kind] for kind in found.keys() - refused if not found[kind] <= limit}
    assert not far


def test_llava_processes_odd_pictures_as_hugging_face_does(
    odd: ModuleType, model_dir: Path
) -> None:
    parts = open_model(model_dir)
    require_odd_pictures_agree(odd, parts, parts.open_processor(model_dir))


def test_samples_are_read_as_the_device_reads_them(
    odd: ModuleType, model_dir: Path, tmp_path: Path
) -> None:
    """Upright and on white: else a bundle's golden pictures would not verify."""
    parts = open_model(model_dir)
    processor = parts.open_processor(model_dir)
    for kind, picture in odd.odd_pictures().items():
        if not isinstance(picture, bytes) or "3000" in kind:
            continue
        path = tmp_path / "picture.png"
        path.write_bytes(picture)
        sample = Sample(path, QUESTION)
        if kind in odd.DEEP:
            with pytest.raises(InputError, match="more than 8 bits"):
                make_cases(parts, [sample])
            continue
        (case,) = make_cases(parts, [sample])
        difference = np.abs(preprocess(picture, parts.image) - case.pixels.numpy()).max()
        assert difference <= odd.tolerance(processor), kind


def test_pixels_of_lfm2_vl_are_those_of_its_own_processor(tiny: ModuleType, tmp_path: Path) -> None:
    """SigLIP 2's stands in for it, since it needs torchvision."""
    pytest.importorskip("torchvision")
    from transformers import Lfm2VlImageProcessor

    size_px = tiny.FAMILIES["lfm2_vl"].size_px
    parts = open_model(tiny.write_tiny(tmp_path, "lfm2_vl"), None, size_px)
    own = Lfm2VlImageProcessor.from_pretrained(tmp_path, do_image_splitting=False)
    processor = parts.open_processor(parts.path)
    for picture in tiny.pictures(3):
        stretched = picture.resize(size_px[::-1], processor.resample)
        told = tiny.FAMILIES["lfm2_vl"].inputs(parts.process(processor, picture))
        want = own(images=stretched, return_tensors="pt")
        count = int(want["pixel_attention_mask"].sum())
        assert want["spatial_shapes"].tolist() == told["spatial_shapes"].tolist()
        got = told["pixel_values"][:, :count]
        torch.testing.assert_close(got, want["pixel_values"][:, :count], atol=1e-6, rtol=0)


Run = Callable[[str, str], tuple[Reference, GraphRunner]]


@pytest.fixture
def run(tiny: ModuleType, load_helper: Any, tmp_path: Path) -> Run:
    """The reference of a family, and one of its graphs with a rung of three tokens."""
    return lambda name, stage: make_runner(
        tiny, load_helper("export/building"), tmp_path, name, stage
    )


def make_runner(
    tiny: ModuleType, building: ModuleType, path: Path, name: str, stage: str
) -> tuple[Reference, GraphRunner]:
    family = tiny.FAMILIES[name]
    parts = open_model(tiny.write_tiny(path / "model", name), family.tiles, family.size_px)
    method = find_method(family.methods[-1]).for_tiles(parts.vision.tiles)
    method = method.for_tower(parts.vision.prefix_tokens, len(parts.vision.blocks))
    builder = building.make_builder(parts, build_ladder((3,), 48, 8), method=method)
    return Reference(parts, method), building.open_graphs(builder, path, stage)


@pytest.mark.parametrize("name", ["smolvlm 2x1", "llava_next 1x2"])
def test_a_tower_looks_at_all_tiles(run: Run, name: str) -> None:
    reference, runner = run(name, "tower")
    pixels = torch.randn(reference.parts.vision.n_parts, 3, 32, 32)
    want = reference.encode(pixels)
    for output, value in runner.run("tower", None, {"pixels": pixels.numpy()}).items():
        if output.startswith("signal_"):
            assert value.shape == (1,) and np.isfinite(value).all()
            continue
        np.testing.assert_allclose(value, want[output], atol=1e-4, err_msg=output)


@pytest.mark.parametrize("name", ["gemma3", "paligemma 2", "qwen2_5_vl"])
def test_a_prompt_of_its_own_kind(run: Run, name: str) -> None:
    """Rows that see ahead, and rows with the places of tokens 5, 2 and a mixture."""
    reference, runner = run(name, "prefill")
    embeds = torch.randn(1, 20, 64)
    made = {"kept": torch.tensor([5, 2, -1])}
    want = reference.answer(embeds, 1, range(4, 7), made=made).logits[0]
    told = {"kept": made["kept"].numpy()}
    got = runner.prefill(3, embeds[0].numpy(), 4, made=told)["logits"][0]
    np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.parametrize("name", ["qwen3_vl"])
def test_bundle_answers_as_hugging_face_does(tiny: ModuleType, tmp_path: Path, name: str) -> None:
    tiny.write_tiny(tmp_path / "model", name)
    export(tiny, tmp_path, name)
    assert compare_golden(tiny, tmp_path, name) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape"), ODD)
def test_twenty_prompts_at_an_odd_shape(
    tiny: ModuleType, tmp_path: Path, name: str, shape: str
) -> None:
    """Two methods at two budgets pass the gate; the full budget gives `generate`'s tokens.

    What is measured goes into docs/results/families.json if EDGETOK_RESULTS names that file.
    """
    require_tower_of(name)
    family = tiny.FAMILIES[name]
    tiny.write_tiny(tmp_path / "model", name, shape)
    flavours = ["ort"] if name in WINDOWED else ["ort", "portable"]
    for method in family.methods[1:]:
        export(tiny, tmp_path, name, method=method, budgets=family.budgets)
    export(tiny, tmp_path, name, budgets=f"{family.budgets},full", flavour=flavours[-1])
    logits, pixels = compare_golden(tiny, tmp_path, name), compare_pixels(tiny, tmp_path, name)
    assert logits < 1e-3 and pixels < 1e-6
    for flavour in flavours:
        assert count_equal(tiny, tmp_path, name, flavour) == 20
    note = {
        "model": name,
        "shape": shape,
        "methods": family.methods,
        "flavours": flavours,
        "prompts": 20,
    }
    record(f"{name}, {shape}", note | {"logits": logits, "pixels": pixels})


def count_equal(tiny: ModuleType, path: Path, name: str, flavour: str) -> int:
    """Of twenty prompts, two for each picture, those that are answered as `generate` does."""
    parts = open_model(path / "model", tiny.FAMILIES[name].tiles, tiny.FAMILIES[name].size_px)
    processor = parts.open_processor(parts.path)
    reference = tiny.HuggingFace(path / "model", name)
    model, full, equal = edgetok.load(path / "out.bundle", flavour=flavour), parts.full_tokens, 0
    shown = tiny.pictures(10, seed=1)
    for number in range(20):  # the second question of a picture reuses what the cache holds
        picture, question = shown[number // 2], f"What is {number}?"
        _, want = reference.ask(parts.process(processor, picture), question, full)
        got = model.generate(np.asarray(picture), question, budget=full, max_new_tokens=12)
        equal += list(got.token_ids) == want
    return equal


def record(name: str, found: dict[str, object]) -> None:
    """Put a measured row into the file that EDGETOK_RESULTS names, if it does."""
    if path := os.environ.get("EDGETOK_RESULTS"):
        file = Path(path)
        rows = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(rows | {name: found}, indent=1, sort_keys=True) + "\n")


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


def test_the_page_lists_every_family_and_what_was_measured() -> None:
    page = load_page()
    results = json.loads(page.RESULTS.read_text())
    assert set(page.FAMILIES) == set(FAMILIES)
    assert set(results) == {", ".join(row) for row in ODD}, (
        "run the slow tests with EDGETOK_RESULTS"
    )
    written = page.PAGE.read_text(encoding="utf-8")
    sizes = json.loads(page.REAL_SIZES.read_text(encoding="utf-8"))["rows"]
    wanted = page.render(results, sizes)
    assert written == wanted, "docs/families.md is out of date: run `make docs`"


def load_page() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks/families_page.py"
    spec = importlib.util.spec_from_file_location("families_page", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gemma3", {"tiles": (2, 2)}, "pictures in one part; leave --tiles out"),
        ("gemma3", {"size_px": (32, 32)}, "in one size; leave --image-size out"),
        ("smolvlm", {"tiles": (1, 1)}, "one tile is the whole picture"),
        ("smolvlm", {"tiles": (9, 9)}, "1 to 64 are possible"),
        ("qwen2_5_vl", {"size_px": (32, 40)}, "multiples of 16"),
        ("qwen2_vl", {"size_px": (8, 9000)}, "1 to 4096"),
        ("lfm2_vl", {"size_px": (32, 40)}, "multiples of 16"),
        ("lfm2_vl", {"size_px": (16, 32)}, "are 2 tokens; this model reads 4 to 256"),
    ],
)
def test_views_that_a_family_does_not_take_are_refused(
    tiny: ModuleType, tmp_path: Path, name: str, options: dict[str, object], message: str
) -> None:
    tiny.write_tiny(tmp_path, name)
    with pytest.raises(UsageError, match=message):
        open_model(tmp_path, **options)


@pytest.mark.parametrize(
    ("name", "method", "message"),
    [
        ("internvl", "visionzip", "tokens are wider"),
        ("internvl", "tome", "behind the tower"),
        ("qwen2_5_vl", "hiprune", "within windows"),
        ("fast_vlm", "visionzip", "tells its features alone"),
        ("perception_lm", "tome", "tells its features alone"),
        ("smolvlm 2x1", "divprune", "2 x 1 tiles; hired and globalcom2"),
    ],
)
def test_methods_that_a_family_does_not_allow_are_refused(
    tiny: ModuleType, tmp_path: Path, name: str, method: str, message: str
) -> None:
    require_tower_of(name)
    tiny.write_tiny(tmp_path / "model", name)
    with pytest.raises(UsageError, match=message):
        export(tiny, tmp_path, name, method=method)
    assert not (tmp_path / "out.bundle").exists()
