"""Several pictures in a prompt, beside Hugging Face's `generate` with the same pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoImageProcessor

import edgetok
from edgetok.bundle.reader import Bundle
from edgetok.cli.app import execute
from edgetok.errors import UsageError
from edgetok.export.cases import split_prompt
from edgetok.export.pipeline import export_model
from edgetok.export.reference.model import Reference
from edgetok.families import open_model
from edgetok.methods import find_method
from edgetok.runtimes.answers.request import EncodedImage
from edgetok.runtimes.images.several import require_weights

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
    before, after = split_prompt(parts.prompt.plan, tokenizer, QUESTION)
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
    """A LLaVA-OneVision for three pictures a prompt, which share a budget as they are told to."""
    path = tmp_path_factory.mktemp("pictures")
    tiny.write_tiny(path / "model", "llava_onevision")
    export_model(
        path / "model",
        path / "out.bundle",
        method="quota",
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


def count_kept(model: edgetok.Model, image: EncodedImage, weights: list[float] | None) -> list[int]:
    answer = model.generate(image, QUESTION, budget=7, weights=weights, max_new_tokens=1)
    return np.bincount(np.array(answer.kept) // 16, minlength=COUNT).tolist()


def test_pictures_share_the_budget_as_they_are_told(tiny: ModuleType, exported: Path) -> None:
    """One graph for all shares; without weights they are equal, also behind other ones."""
    model = edgetok.load(exported / "out.bundle")
    image = model.encode(tiny.pictures(COUNT))
    assert count_kept(model, image, None) == [3, 2, 2]
    assert count_kept(model, image, [0, 2, 5]) == [0, 2, 5]
    assert count_kept(model, image, [1, 1, 1]) == [3, 2, 2]
    assert count_kept(model, image, None) == [3, 2, 2]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 2], "2 weights were given for 3 pictures"),
        ([0, 0, 0], "one above 0"),
        ([1, -1, 1], "each must be 0 to"),
        ([1, float("nan"), 1], "each must be 0 to"),
        ([1, 1e30, 1], "each must be 0 to"),
    ],
)
def test_odd_weights_are_refused(
    tiny: ModuleType, exported: Path, weights: list[float], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        edgetok.load(exported / "out.bundle").generate(tiny.pictures(COUNT), "?", weights=weights)


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
    manifest = Bundle.open(exported / "out.bundle").manifest
    others = [s for s in manifest.stages if s.stage != "compress"]
    changed = msgspec.structs.replace(manifest, method="visionzip", stages=others)
    with pytest.raises(UsageError, match="visionzip of this bundle reads no weights"):
        require_weights(changed, [1, 2, 3])


@pytest.fixture
def run(exported: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`edgetok run` on the bundle: exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        line = ["run", exported / "out.bundle", "--prompt", QUESTION, *arguments]
        code = execute([str(argument) for argument in line])
        return code, *capfd.readouterr()

    return run


def test_run_takes_pictures_and_frames(
    tiny: ModuleType, exported: Path, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, picture in enumerate(tiny.pictures(5)):
        picture.save(folder / f"{number}.png")
    three = [part for n in (0, 2, 4) for part in ("--image", folder / f"{n}.png")]
    options = ("--budget", 7, "--json", "--frame-weights", "1,2,4")
    code, out, _ = run(*three, *options)
    assert code == 0
    kept = np.array(json.loads(out)["kept"]) // 16
    assert np.bincount(kept).tolist() == [1, 2, 4]
    code, again, _ = run("--frames", folder, "--frame-count", 3, *options)
    assert code == 0
    assert json.loads(again)["token_ids"] == json.loads(out)["token_ids"]


def test_conversations_are_about_all_pictures(tiny: ModuleType, exported: Path) -> None:
    model = edgetok.load(exported / "out.bundle")
    shown = tiny.pictures(COUNT)
    talk = model.converse(shown, budget=7)
    assert talk.ask(QUESTION).token_ids == model.generate(shown, QUESTION, budget=7).token_ids


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --image, once for each picture, or --frames"),
        (["--image", "a.png", "--frames", "b"], "and not both"),
        (["--image", "a.png", "--frame-count", "2"], "--frame-count goes with --frames"),
        (["--frames", "b", "--frame-count", "2"], "export with --images 2"),
        (["--image", "-", "--image", "-"], "give - once"),
        (["--frames", "b", "--frame-weights", "1,x"], "no list of numbers"),
        (["--frames", "no-such-file"], "cannot be read: No such file"),
    ],
)
def test_run_refuses(
    run: Callable[..., tuple[int, str, str]], arguments: list[str], message: str
) -> None:
    code, out, err = run(*arguments)
    assert code in (2, 5) and out == ""
    assert message in " ".join(err.split())
    assert "Traceback" not in err


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


def test_llava_reads_the_line_ends_between_pictures(
    tiny_llava: ModuleType, model_dir: Path
) -> None:
    """LLaVA-1.5's template writes "<image>\\n" for each picture; beside `generate`."""
    import transformers

    parts = open_model(model_dir, pictures=COUNT)
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    assert parts.layout is not None
    assert len(parts.layout.separators) == (COUNT - 1) * len(tokenizer.encode("\n").ids) > 0
    before, after = split_prompt(parts.prompt.plan, tokenizer, QUESTION)
    rendered = "<image>" * 16 + "\n"
    text = f"<s>USER: {rendered * COUNT}{QUESTION} ASSISTANT:"
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False).ids])
    pixels = torch.randn(COUNT, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    kind = transformers.LlavaForConditionalGeneration
    model = kind.from_pretrained(model_dir, attn_implementation="eager").eval()
    with torch.no_grad():
        want = model(input_ids=ids, pixel_values=pixels).logits[0, -1]
    reference = Reference(parts, find_method("pool").for_pictures(COUNT))
    made = reference.compress(reference.encode(pixels), parts.full_tokens)
    embeds = reference.embed(before, made["visual_tokens"], after)
    assert embeds.shape[1] == ids.shape[1]
    visual = range(len(before), len(before) + parts.full_tokens)
    got = reference.answer(embeds, 1, visual, made=made).logits[0]
    assert (got - want).abs().max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "method"),
    [
        *(("llava", "holitom"), ("llava_onevision", "kffocus"), ("smolvlm", "quota")),
        *(("internvl", "quota-text"), ("llava", "visionzip"), ("smolvlm", "divprune")),
        *(("llava_onevision", "holitom"), ("internvl", "mmtok")),
    ],
)
def test_shared_budgets_pass_the_gate_in_both_flavours(
    tiny: ModuleType, model_dir: Path, tmp_path: Path, name: str, method: str
) -> None:
    """Nothing is published unless graphs choose and answer as PyTorch does."""
    model = model_dir if name == "llava" else tiny.write_tiny(tmp_path / "model", name)
    report = export_model(
        model,
        tmp_path / "out.bundle",
        method=method,
        budgets="9,14",
        pictures=4,
        parity_images=2,
        prompt_tokens=48,
        new_tokens=12,
        flavour="portable",
    )
    checks = report.parity["checks"]
    assert all(check["passed"] for check in checks)
    assert any(check["stage"] == "portable end to end" for check in checks)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"prefill": "fastv:0.5"},
        {"kv": "int8", "weights": "int8"},
        {"kv_policy": "snapkv", "kv_slots": 48},
        {"kv": "kivi"},
    ],
    ids=["prefill", "int8", "policy", "kivi"],
)
def test_shared_budgets_go_with_what_comes_behind(
    model_dir: Path, samples: Path, tmp_path: Path, options: dict[str, object]
) -> None:
    export_model(
        model_dir,
        tmp_path / "out.bundle",
        method="holitom",
        budgets="8,full",
        pictures=3,
        parity_images=2,
        prompt_tokens=64,
        new_tokens=12,
        samples=samples,
        **options,
    )
    model = edgetok.load(tmp_path / "out.bundle")
    pictures = sorted(samples.parent.glob("*.png"))[:3]
    assert model.generate(pictures, QUESTION, budget=8, max_new_tokens=4).token_ids
