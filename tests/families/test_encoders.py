"""Encoders alone against Hugging Face's whole models, and their image processors against theirs."""

from __future__ import annotations

import importlib.util
import json
import os
from itertools import cycle
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import edgetok
from edgetok.bundle.reader import EncoderBundle
from edgetok.errors import InputError, UsageError
from edgetok.export.encoder.graphs import require_fit, require_movable
from edgetok.export.encoder.reference import EncoderReference, give_back
from edgetok.export.lowering import weight_file as external
from edgetok.export.pipeline import export_model
from edgetok.families.checkpoint import Checkpoint, read_checkpoint
from edgetok.families.encoder_heads import AttentionPool, MeanHead
from edgetok.families.encoder_parts import Encoded, EncoderParts
from edgetok.families.encoders import ENCODERS, open_encoder
from edgetok.images.preprocess import preprocess
from edgetok.methods import TOWER_METHODS, expedit, find_method
from edgetok.runtimes.encoder.verify import verify_encoder

KINDS = (
    *("vit", "vit embedding", "deit", "deit distilled", "dinov2", "dinov2 embedding"),
    *("dinov2 registers", "dinov3", "clip tower", "clip classifier", "clip", "siglip tower"),
    *("siglip classifier", "siglip", "dpt", "dpt dinov2", "eomt"),
)
SHAPES = ("", "3 heads of 16")
WITH_SHAPES = [*zip(KINDS, cycle(SHAPES), strict=False)]


@pytest.fixture(scope="module")
def tiny(load_helper: object) -> ModuleType:
    return load_helper("families/tiny_encoders")  # type: ignore[operator]


def open_tiny(tiny: ModuleType, path: Path, name: str, shape: str = "") -> EncoderParts:
    return open_encoder(
        read_checkpoint(tiny.write_tiny_encoder(path, name, shape), tokenizer=False)
    )


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def test_every_kind_is_tried(tiny: ModuleType) -> None:
    assert set(KINDS) == set(tiny.KINDS)


@pytest.mark.parametrize(("name", "shape"), WITH_SHAPES)
def test_parts_put_together_are_the_whole_model(
    tiny: ModuleType, tmp_path: Path, name: str, shape: str
) -> None:
    """The output of Hugging Face's own forward pass, and the pixels of its own processor."""
    parts = open_tiny(tiny, tmp_path, name, shape)
    reference = EncoderReference(parts, find_method("expedit").inside)
    seen = picture(47, 33)
    pixels = parts.process(seen)
    made = reference.run(pixels, parts.vision.full_tokens)[parts.output]
    whole = reference.whole(pixels)
    assert made.shape == whole.shape and float(whole.std()) > 1e-3
    assert float((made - whole).abs().max()) < 1e-4
    assert parts.task == tiny.KINDS[name].task
    assert parts.labels == ((*tiny._LABELS.values(),) if parts.task in tiny.LABELLED else ())
    for size in ((47, 33), (31, 90), (64, 64)):
        seen = picture(*size, seed=1)
        off = np.abs(preprocess(seen, parts.image) - parts.process(seen).numpy()).max()
        assert off < 1e-6


def test_pictures_need_not_be_square(tiny: ModuleType, tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(**tiny._plain(tiny._BASE) | {"image_size": [32, 48], "num_labels": 3})
    ViTForImageClassification(config).save_pretrained(tmp_path)
    size = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 48}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(tiny._VALUES | size))
    parts = open_encoder(read_checkpoint(tmp_path, tokenizer=False))
    reference, pixels = (
        EncoderReference(parts, find_method("expedit").inside),
        torch.rand(1, 3, 32, 48),
    )
    assert parts.vision.grid == (4, 6)
    made = reference.run(pixels, 24)["logits"]
    assert torch.allclose(made, reference.whole(pixels), atol=1e-5)
    assert not torch.allclose(made, reference.run(pixels, 6)["logits"], atol=1e-5)


def test_rows_are_given_back_as_a_loop_over_patches_does() -> None:
    torch.manual_seed(0)
    patches, then, now = torch.randn(30, 6), torch.randn(40, 6), torch.randn(40, 6)
    assert torch.allclose(
        expedit.restore(patches, then, now), give_back(patches, then, now), atol=1e-4
    )


def _encoded(rows: torch.Tensor, sizes: torch.Tensor) -> Encoded:
    return Encoded((rows,), sizes, sizes.log(), lambda kept: kept)


def test_a_mean_counts_a_row_as_often_as_its_patches() -> None:
    """Equal rows that were merged into one of their size change nothing."""
    torch.manual_seed(0)
    cls, first, second = torch.randn(1, 8), torch.randn(1, 8), torch.randn(1, 8)
    head = MeanHead(torch.nn.Identity(), 1, torch.nn.Linear(16, 3), beside_cls=True)
    apart = head(_encoded(torch.cat([cls, first, first, first, second]), torch.ones(5)))
    merged = torch.tensor([1.0, 3.0, 1.0])
    together = head(_encoded(torch.cat([cls, first, second]), merged))
    assert torch.allclose(apart, together, atol=1e-6)
    assert not torch.allclose(
        apart, head(_encoded(torch.cat([cls, first, second]), torch.ones(3))), atol=1e-3
    )


def test_pooling_attention_counts_a_row_as_often_as_its_patches() -> None:
    from transformers import SiglipVisionConfig
    from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

    torch.manual_seed(0)
    config = SiglipVisionConfig(hidden_size=16, num_attention_heads=4, intermediate_size=24)
    theirs = SiglipMultiheadAttentionPoolingHead(config).eval()
    head, rows = AttentionPool(torch.nn.Identity(), theirs), torch.randn(2, 16)
    whole = torch.cat([rows[:1]] * 3 + [rows[1:]])
    with torch.no_grad():
        together = head(_encoded(rows, torch.tensor([3.0, 1.0])))
        assert torch.allclose(theirs(whole[None]), together, atol=1e-5)


def test_methods_that_fit_are_listed_and_the_others_refused(
    tiny: ModuleType, tmp_path: Path
) -> None:
    vit = open_tiny(tiny, tmp_path / "vit", "vit")
    for name, method in TOWER_METHODS.items():
        assert require_fit(vit, method) is method.inside, name
    with pytest.raises(UsageError, match=r"visionzip cannot serve.*: tome, pitome, .*expedit"):
        require_fit(vit, find_method("visionzip"))
    dpt = open_tiny(tiny, tmp_path / "dpt", "dpt")
    assert require_fit(dpt, find_method("expedit")) is find_method("expedit").inside
    with pytest.raises(UsageError, match=r"tome cannot serve .* a row per patch; .*: expedit$"):
        require_fit(dpt, find_method("tome"))
    turned = open_tiny(tiny, tmp_path / "dinov3", "dinov3")
    require_movable(turned, [16])
    with pytest.raises(UsageError, match="only --budgets full"):
        require_movable(turned, [4, 16])


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "vit",
            {"architectures": ["ViTForMaskedImageModeling"]},
            "knows ViTForImageClass",
        ),
        ("vit", {"architectures": None}, "architectures None"),
        ("dpt", {"is_hybrid": True}, "convolutional or timm backbone"),
        ("dpt", {"backbone_config": {"model_type": "swinv2"}}, "backbone of type 'swinv2'"),
        ("dpt dinov2", {}, None),
    ],
)
def test_heads_and_backbones_that_are_not_known_are_refused(
    tiny: ModuleType, tmp_path: Path, name: str, changes: dict[str, Any], message: str | None
) -> None:
    tiny.write_tiny_encoder(tmp_path, name)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    if message is None:
        assert open_encoder(read_checkpoint(tmp_path, tokenizer=False)).task == "depth"
        return
    with pytest.raises(InputError, match=message):
        open_encoder(read_checkpoint(tmp_path, tokenizer=False))


@pytest.mark.parametrize(("kind", "why"), [("sam", "within windows"), ("siglip2", "NaFlex")])
def test_encoders_that_cannot_be_exported_say_why(tmp_path: Path, kind: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        open_encoder(Checkpoint(tmp_path, {"model_type": kind}))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"height": 40, "width": 40}, "the model does not take them"),
        ({"shortest_edge": 32}, "pictures of many sizes"),
    ],
)
def test_sizes_that_the_model_does_not_take_are_refused(
    tiny: ModuleType, tmp_path: Path, size: dict[str, int], message: str
) -> None:
    tiny.write_tiny_encoder(tmp_path, "clip tower")
    file = tmp_path / "preprocessor_config.json"
    changed = json.loads(file.read_text()) | {"size": size, "do_center_crop": False}
    file.write_text(json.dumps(changed))
    with pytest.raises(InputError, match=message):
        open_encoder(read_checkpoint(tmp_path, tokenizer=False))


@pytest.mark.parametrize(("name", "length"), [("clip", 24), ("siglip", 20)])
def test_texts_are_padded_and_read_as_hugging_face_does(
    tiny: ModuleType, tmp_path: Path, name: str, length: int
) -> None:
    from tokenizers import Tokenizer

    tiny.write_tiny_encoder(tmp_path, name)
    parts = open_encoder(read_checkpoint(tmp_path, tokenizer=False))
    assert parts.text is not None
    own = Tokenizer.from_str(parts.text.tokenizer)
    assert len(own.encode("a photo").ids) == parts.text.length == length
    for text in ("a photo", "A TABLE, a table", ""):
        ids = torch.tensor([own.encode(text).ids])
        assert torch.allclose(parts.text.module(ids), parts.text.whole(ids), atol=1e-6)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        open_encoder(read_checkpoint(tmp_path, tokenizer=False))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape"), WITH_SHAPES)
def test_bundles_make_what_hugging_face_makes(
    tiny: ModuleType, tmp_path: Path, name: str, shape: str
) -> None:
    """Every method passes the gate; the full budget gives Hugging Face's output in both flavours.

    What is measured goes into docs/results/encoders.json if EDGETOK_ENCODERS names that file.
    """
    kind, model_dir, out = tiny.KINDS[name], tmp_path / "model", tmp_path / "out.bundle"
    tiny.write_tiny_encoder(model_dir, name, shape)
    for method, budgets in list(kind.methods.items())[1:]:
        smallest = budgets.split(",")[0]
        export_model(model_dir, out, method=method, budgets=smallest, parity_images=1, force=True)
    method, budgets = next(iter(kind.methods.items()), (None, ""))
    wanted = f"{budgets.split(',')[0]},full".lstrip(",")
    export_model(
        *(model_dir, out),
        method=method,
        budgets=wanted,
        flavour="portable",
        parity_images=1,
        force=True,
    )
    parts = open_encoder(read_checkpoint(model_dir, tokenizer=False))
    off, bundle = 0.0, EncoderBundle.open(out)
    for flavour in ("ort", "portable"):
        encoder = edgetok.load_encoder(out, flavour=flavour)
        assert not verify_encoder(bundle, encoder).failures
        for number in range(3):
            seen = picture(60 + number, 41, seed=number)
            with torch.no_grad():
                want = parts.whole(parts.process(seen))[0].numpy()
            off = max(off, float(np.abs(encoder.encode(seen).output - want).max()))
        if kind.texts:
            compare_texts(encoder, model_dir)
    assert off < 1e-3
    record(name, {"shape": shape, "task": kind.task, "methods": [*kind.methods], "output": off})


def compare_texts(encoder: edgetok.Encoder, model_dir: Path) -> None:
    """Probabilities of texts as Hugging Face's processor and model give them."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    texts = ["a photo of a cat", "two red circles", "A table!"]
    model = AutoModel.from_pretrained(model_dir).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    assert encoder.manifest.text is not None
    length = encoder.manifest.text.tokens
    given = tokenizer(texts, padding="max_length", max_length=length, return_tensors="pt")
    seen = picture(50, 40)
    pixels = AutoImageProcessor.from_pretrained(model_dir)(images=seen, return_tensors="pt")
    with torch.no_grad():
        out = model(input_ids=given.input_ids, pixel_values=pixels["pixel_values"])
    logits = out.logits_per_image[0]
    kind = encoder.manifest.text.similarity.kind
    want = logits.sigmoid() if kind == "sigmoid" else logits.softmax(0)
    found = {each.label: each for each in encoder.compare(seen, texts)}
    for text, logit, share in zip(texts, logits.tolist(), want.tolist(), strict=True):
        assert abs(found[text].logit - logit) < 1e-3
        assert abs(found[text].probability - share) < 1e-3


def record(name: str, found: dict[str, object]) -> None:
    """Put a measured row into the file that EDGETOK_ENCODERS names, if it does."""
    if path := os.environ.get("EDGETOK_ENCODERS"):
        file = Path(path)
        rows = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(rows | {name: found}, indent=1, sort_keys=True) + "\n")


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_coarser_weights_are_proved_against_the_same_rounded_weights(
    tiny: ModuleType, tmp_path: Path, weights: str
) -> None:
    tiny.write_tiny_encoder(tmp_path / "model", "siglip")
    options = {"weights": weights, "flavour": "portable", "parity_images": 1}
    export_model(tmp_path / "model", tmp_path / "plain", budgets="full", parity_images=1)
    report = export_model(tmp_path / "model", tmp_path / "out", budgets="5,full", **options)
    assert report.parity["weights"] == weights
    bundle, plain = (EncoderBundle.open(tmp_path / name) for name in ("out", "plain"))
    stored = [each.manifest.files[external.FILE].bytes for each in (bundle, plain)]
    # Though integers of both flavours are stored, and each of these tiny tensors takes a page.
    assert stored[0] < stored[1]
    assert not verify_encoder(bundle, edgetok.load_encoder(bundle)).failures


def test_the_page_lists_every_encoder_and_what_was_measured() -> None:
    path = Path(__file__).parents[2] / "benchmarks/encoders_page.py"
    spec = importlib.util.spec_from_file_location("encoders_page", path)
    assert spec is not None and spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    results = json.loads(page.RESULTS.read_text())
    assert set(page.FAMILIES) == set(ENCODERS)
    assert set(results) == set(KINDS), "run the slow tests with EDGETOK_ENCODERS"
    written = page.PAGE.read_text(encoding="utf-8")
    assert written == page.render(results), "docs/encoders.md is out of date: run `make docs`"


def test_the_list_of_encoders_names_functions_that_exist() -> None:
    from importlib import import_module

    for known, module, name in ENCODERS.values():
        assert known and callable(getattr(import_module(f"edgetok.families.{module}"), name))
