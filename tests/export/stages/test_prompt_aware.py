"""Methods that read the prompt: what they are fed at export, in the bundle and on the device."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

import edgetok
from edgetok import names
from edgetok.bundle.golden import load_golden
from edgetok.bundle.processor import PromptPlan, Segment
from edgetok.bundle.reader import Bundle
from edgetok.errors import InputError, UsageError, VerificationError
from edgetok.export import cases
from edgetok.export.pipeline import export_model
from edgetok.families import open_model
from edgetok.methods import METHODS
from edgetok.runtimes.processor import read_processor
from edgetok.runtimes.verify import verify
from edgetok.text.prompt import encode_prompt

TEXTS = ["What is in the picture?", " a  circle\n", "é画", "?", "", "red red red"]
PHOTO = np.random.default_rng(3).integers(0, 255, (40, 40, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def asking(model_dir: Path, samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a bundle whose compressor reads the prompt."""
    out = tmp_path_factory.mktemp("asking") / "asking.bundle"
    options: dict[str, Any] = {"budgets": "4,8,full", "prompt_tokens": 64, "new_tokens": 16}
    export_model(model_dir, out, method="cdpruner", samples=samples, parity_images=2, **options)
    return out


@pytest.fixture(scope="module")
def model(asking: Path) -> Any:
    return edgetok.load(asking)


def test_the_manifest_names_what_compress_reads(asking: Path) -> None:
    stages = {(s.stage, s.budget): s for s in Bundle.open(asking).manifest.stages}
    inputs = {t.name: t.shape for t in stages["compress", 8].inputs}
    assert inputs == {names.FEATURES: [16, 64], names.TEXT_EMBEDS: [64, 64], names.TEXT_MASK: [64]}
    assert [t.name for t in stages["compress", 16].inputs] == [names.FEATURES]
    assert not {t.name for t in stages["tower", None].outputs} & {*names.OF_PROMPT}


def test_the_question_decides_what_is_kept(model: Any) -> None:
    image = model.encode(PHOTO)
    kept = {text: model.generate(image, text, budget=4).kept for text in TEXTS}
    assert len(set(kept.values())) > 1
    assert kept == {text: model.generate(image, text, budget=4).kept for text in TEXTS}


def test_the_device_keeps_what_pytorch_keeps(model_dir: Path, model: Any) -> None:
    """The whole way, prompt and all, against the method itself on Hugging Face's features."""
    from edgetok.export.reference.model import Reference

    parts = open_model(model_dir)
    reference = Reference(parts, METHODS["cdpruner"])
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    pixels = torch.from_numpy(model.processor.pixels(PHOTO))
    for text in TEXTS:
        before, after = cases.split_prompt(parts.prompt.plan, tokenizer, text)
        question = cases.find_question(parts.prompt.plan, tokenizer, text)
        case = cases.Case(b"", "", text, pixels, before, after, question)
        wanted = reference.compress(reference.look(case), 8)
        found = model.compress(model.encode(PHOTO), text, budget=8)
        assert found.kept.tolist() == wanted[names.KEPT].tolist(), text
        np.testing.assert_allclose(found.rows, wanted[names.VISUAL_TOKENS], atol=1e-4)


def test_what_was_asked_before_does_not_matter(model: Any) -> None:
    """Rows of a longer prompt still lie in the buffer when a shorter one is asked."""
    image = model.encode(PHOTO)
    fresh = model.compress(image, "a circle?", budget=4)
    model.compress(image, "What is in the picture, and where? " * 2, budget=4)
    again = model.compress(image, "a circle?", budget=4)
    np.testing.assert_array_equal(fresh.rows, again.rows)


def test_room_for_longer_prompts_does_not_matter(
    model_dir: Path, model: Any, tmp_path: Path
) -> None:
    out = tmp_path / "roomy.bundle"
    options: dict[str, Any] = {"budgets": "4,8", "prompt_tokens": 100, "new_tokens": 8}
    export_model(model_dir, out, method="cdpruner", parity_images=1, **options)
    roomy = edgetok.load(out)
    for text in TEXTS:
        kept = [m.compress(m.encode(PHOTO), text, budget=8).kept for m in (model, roomy)]
        np.testing.assert_array_equal(*kept)


def test_golden_cases_are_verified(asking: Path, model: Any) -> None:
    bundle = Bundle.open(asking)
    verify(bundle, model).require_passed()
    case = load_golden(bundle)[0]
    image = model.encode(bundle.read(case.image))
    for budget, rung in case.rungs.items():
        found = model.compress(image, case.prompt, budget=budget)
        assert found.kept.tolist() == rung.kept.tolist()


def test_compress_without_its_prompt_is_refused(model: Any) -> None:
    image, rung = model.runtime.encode(model.processor.pixels(PHOTO)), model.ladder.smallest
    with pytest.raises(UsageError, match="looks at the prompt"):
        model.runtime.compress(image, rung)
    with pytest.raises(InputError, match="at most 64 fit"):
        model.compress(model.encode(PHOTO), "word " * 80, budget=4)


def test_the_gate_sees_a_mask_of_other_words(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgetok.export.parity.sessions import GraphRunner

    right = GraphRunner.pad_prompt

    def shifted(self: GraphRunner, feeds: dict[str, Any]) -> dict[str, Any]:
        padded = right(self, feeds)
        return padded | {names.TEXT_MASK: np.roll(padded[names.TEXT_MASK], -4)}

    monkeypatch.setattr(GraphRunner, "pad_prompt", shifted)
    options: dict[str, Any] = {"budgets": "4,8", "prompt_tokens": 40, "new_tokens": 8}
    with pytest.raises(VerificationError, match="compress"):
        export_model(model_dir, tmp_path / "x.bundle", method="cdpruner", **options)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("order", ["image first", "user first", "alone"])
def test_device_and_exporter_agree_where_the_question_is(
    asking: Path, text: str, order: str
) -> None:
    processor = read_processor(Bundle.open(asking))
    plan, user = processor.prompt, Segment(slot="user")
    image, begin = Segment(slot="image"), Segment(ids=[1])
    if order == "user first":
        words = [Segment(text="USER: "), user, Segment(text=" look: "), image, Segment(text="?")]
        plan = PromptPlan(segments=[begin, *words], forbidden_ids=[])
    elif order == "alone":
        plan = PromptPlan(segments=[begin, image, user, Segment(ids=[2])], forbidden_ids=[])
    prompt = encode_prompt(plan, processor.tokenizer, text)
    tokenizer = processor.tokenizer.first
    tokenizer.encode_special_tokens = False  # the exporter's reads control tokens
    question = cases.find_question(plan, tokenizer, text)
    tokenizer.encode_special_tokens = True
    assert list(prompt.question) == list(question)
    ids = [*prompt.before, *prompt.after]
    assert text.strip() in processor.tokenizer.decode([ids[i] for i in question])
    assert bool(question) == bool(text)


@pytest.mark.slow
@pytest.mark.parametrize("name", [m.name for m in METHODS.values() if m.reads_prompt])
@pytest.mark.parametrize("tower", ["clip", "siglip"])
def test_every_prompt_aware_method_passes_the_gate(
    tiny_llava: ModuleType, tmp_path: Path, name: str, tower: str
) -> None:
    path = tiny_llava.write_tiny_llava(tmp_path / "model", tower=tower)
    options: dict[str, Any] = {"budgets": "3,6,11", "prompt_tokens": 40, "new_tokens": 8}
    out = tmp_path / "x.bundle"
    report = export_model(path, out, method=name, parity_images=6, **options)
    assert all(check["passed"] for check in report.parity["checks"])
    verify(Bundle.open(out), edgetok.load(out)).require_passed()
