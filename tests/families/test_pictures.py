"""Several pictures in a prompt, beside Hugging Face's `generate` with the same pictures."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

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
from edgetok.families import open_model
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


@pytest.fixture(scope="module")
def exported(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA-OneVision for three pictures a prompt; a method that mixes, with a CLS-free tower."""
    path = tmp_path_factory.mktemp("pictures")
    tiny.write_tiny(path / "model", "llava_onevision")
    export_model(
        path / "model",
        path / "out.bundle",
        method="visionzip",
        budgets="7,full",
        pictures=COUNT,
        parity_images=1,
        prompt_tokens=48,
        new_tokens=16,
    )
    return path


def test_a_bundle_answers_as_hugging_face_does(tiny: ModuleType, exported: Path) -> None:
    """Places, pixels and the order of three pictures, through the runtime that ships."""
    model = edgetok.load(exported / "out.bundle")
    full = Bundle.open(exported / "out.bundle").manifest.vision.full_tokens
    parts = open_model(exported / "model")
    processor = AutoImageProcessor.from_pretrained(exported / "model")
    hugging_face = tiny.HuggingFace(exported / "model", "llava_onevision")
    answers = set()
    for seed in range(2):
        shown = tiny.pictures(COUNT, seed)
        for order in (shown, shown[::-1]):
            pixels = torch.cat([parts.process(processor, picture) for picture in order])
            _, want = hugging_face.ask(pixels, QUESTION, parts.full_tokens, COUNT)
            got = model.generate(order, QUESTION, budget=full, max_new_tokens=12)
            assert list(got.token_ids) == want
            answers.add(got.token_ids)
    assert len(answers) > 2  # the order matters to what is answered


def test_each_picture_gets_an_equal_share(tiny: ModuleType, exported: Path) -> None:
    model = edgetok.load(exported / "out.bundle")
    image = model.encode(tiny.pictures(COUNT))
    kept = model.compress(image, QUESTION, budget=7).kept
    assert [int(((kept >= 16 * p) & (kept < 16 * (p + 1))).sum()) for p in range(COUNT)] == [
        3,
        2,
        2,
    ]
    answer = model.generate(image, QUESTION, budget=7)
    assert answer.token_ids == model.generate(tiny.pictures(COUNT), QUESTION, budget=7).token_ids


def test_golden_cases_of_several_pictures_are_repeated(exported: Path) -> None:
    from edgetok.runtimes.verify import verify

    bundle = Bundle.open(exported / "out.bundle")
    verify(bundle, edgetok.load(exported / "out.bundle")).require_passed()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_another_number_of_pictures_is_refused(
    tiny: ModuleType, exported: Path, count: int
) -> None:
    model = edgetok.load(exported / "out.bundle")
    shown = tiny.pictures(count)
    with pytest.raises(UsageError, match=f"{count} pictures? w.*have 3; give 3"):
        model.generate(shown if count > 1 else shown[0], QUESTION)


def test_weights_that_no_method_reads_are_refused(tiny: ModuleType, exported: Path) -> None:
    model = edgetok.load(exported / "out.bundle")
    with pytest.raises(UsageError, match="visionzip of this bundle reads no weights"):
        model.generate(tiny.pictures(COUNT), QUESTION, weights=[1, 2, 3])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gemma3", {"pictures": 2}, "take one picture per prompt; leave --images out"),
        ("qwen2_vl", {"pictures": 2}, "Several are known of llava, llava_onevision"),
        ("llava_next 1x2", {"pictures": 2}, "take one picture per prompt"),
        ("smolvlm", {"pictures": 2, "tiles": (1, 2)}, "leave --tiles out"),
        ("smolvlm", {"pictures": 65}, "1 to 64 are possible"),
        ("smolvlm", {"pictures": 0}, "1 to 64 are possible"),
    ],
)
def test_pictures_that_a_family_does_not_take_are_refused(
    tiny: ModuleType, tmp_path: Path, name: str, options: dict[str, object], message: str
) -> None:
    tiny.write_tiny(tmp_path, name)
    with pytest.raises(UsageError, match=message):
        open_model(tmp_path, **options)


def test_a_template_that_does_not_take_several_is_refused(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.write_tiny(tmp_path, "smolvlm")
    template = tmp_path / "chat_template.jinja"
    template.write_text("<image>USER: {{ messages[0]['content'][-1]['text'] }}")
    with pytest.raises(edgetok.InputError, match="exactly 2 images in a row and one text"):
        open_model(tmp_path, pictures=2)
