"""`edgetok` on a bundle without a language model: a ViT, exported once."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

import edgetok as library
from edgetok.bundle.encoder_golden import load_encoder_golden
from edgetok.bundle.reader import EncoderBundle
from edgetok.cli.encoder import EncoderRequest, require_encoder_request, show_map
from edgetok.errors import BundleError, UsageError
from edgetok.families.checkpoint import read_checkpoint
from edgetok.families.encoders import open_encoder
from edgetok.runtimes.encoder.model import score

from .conftest import Run


@pytest.fixture(scope="module")
def tiny(load_helper: object) -> ModuleType:
    return load_helper("families/tiny_encoders")  # type: ignore[operator]


@pytest.fixture(scope="module")
def vit_dir(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tiny.write_tiny_encoder(tmp_path_factory.mktemp("vit"), "vit", "two blocks")
    return path


@pytest.fixture(scope="module")
def vit_bundle(vit_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "vit.bundle"
    report = library.export(vit_dir, out, budgets="5,full", parity_images=1)
    assert report.parity["checks"]
    return out


@pytest.fixture
def image(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (41, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_run_prints_the_likeliest_classes_as_hugging_face_has_them(
    edgetok: Run, vit_bundle: Path, vit_dir: Path, image: Path
) -> None:
    parts = open_encoder(read_checkpoint(vit_dir, tokenizer=False))
    with torch.no_grad():
        logits = parts.whole(parts.process(Image.open(image)))[0]
    shares, order = logits.softmax(0), logits.argsort(descending=True).tolist()
    done = edgetok("run", vit_bundle, "--image", image, "--json", "--top", "3")
    assert (done.code, done.json["task"], done.json["budget"]) == (0, "classify", 16)
    found = done.json["scores"]
    assert [each["label"] for each in found] == [parts.labels[place] for place in order[:3]]
    for each, place in zip(found, order, strict=False):
        assert abs(each["logit"] - float(logits[place])) < 1e-3
        assert abs(each["probability"] - float(shares[place])) < 1e-4
    shown = edgetok("run", vit_bundle, "--image", image, "--budget", "5")
    assert shown.code == 0 and len(shown.out.splitlines()) == 5
    assert "5 patches" in shown.err


def test_inspect_verify_and_bench_know_encoders(edgetok: Run, vit_bundle: Path) -> None:
    facts = edgetok("inspect", vit_bundle, "--json").json
    assert (facts["task"], facts["family"], facts["method"]) == ("classify", "vit", "tome")
    assert [rung["budget"] for rung in facts["ladder"]] == [5, 16]
    assert "red circle" in edgetok("inspect", vit_bundle).out
    checked = edgetok("verify", vit_bundle, "--json")
    assert checked.code == 0
    assert {check["what"] for check in checked.json["checks"]} >= {"pixels", "output"}
    measured = edgetok("bench", vit_bundle, "--repeats", "2", "--json").json
    assert [row["budget"] for row in measured["rows"]] == [5, 16]
    assert all(row["encode_ms_p50"] > 0 for row in measured["rows"])


def test_a_closed_encoder_sees_no_more(vit_bundle: Path, image: Path) -> None:
    with library.load_encoder(vit_bundle) as encoder:
        assert encoder.encode(image).budget == 16
    for call in (lambda: encoder.encode(image), lambda: encoder.classify(image, budget=5)):
        with pytest.raises(UsageError, match="this encoder is closed; load the bundle again"):
            call()
    encoder.close()  # once more changes nothing
    with pytest.raises(UsageError, match="the rung of 7 patches is not loaded"):
        encoder.encode(image, budget=7)


def test_a_damaged_golden_output_fails_verification(
    edgetok: Run, vit_bundle: Path, tmp_path: Path
) -> None:
    import shutil

    from edgetok.bundle.golden import TENSORS_FILE, decode_npz, encode_npz

    broken = tmp_path / "broken.bundle"
    shutil.copytree(vit_bundle, broken)
    arrays = decode_npz((broken / TENSORS_FILE).read_bytes())
    arrays["case0/16/output"] = arrays["case0/16/output"][::-1]
    reseal(broken, TENSORS_FILE, encode_npz(arrays))
    done = edgetok("verify", broken)
    assert done.code == 7 and "output of case0 at 16 tokens" in done.err
    del arrays["case0/16/output"]
    reseal(broken, TENSORS_FILE, encode_npz(arrays))
    with pytest.raises(BundleError, match="`case0/16/output` is missing"):
        load_encoder_golden(EncoderBundle.open(broken))


def reseal(bundle: Path, name: str, data: bytes) -> None:
    """Replace a file and what the manifest says about it."""
    import hashlib

    (bundle / name).write_bytes(data)
    file = bundle / "manifest.json"
    tree = json.loads(file.read_text())
    tree["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    file.write_text(json.dumps(tree))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--prompt", "What?"), "no language model, its task is classify, so --prompt"),
        (("--signal", "elbow"), "so --signal means nothing"),
        (("--max-ttft-ms", "9"), "so --max-ttft-ms means nothing"),
        (("--temperature", "1"), "so --temperature means nothing"),
        (("--stream",), "so --stream means nothing"),
        (("--text", "a cat"), "takes no --text"),
        (("--output", "x.npy"), "takes no --output"),
        (("--budget", "7"), "no rung of 7 patches; this bundle has (5, 16)"),
        (("--flavour", "portable"), "no portable graphs"),
        (("--top", "0"), "--top"),
    ],
)
def test_options_that_do_not_go_with_the_task_are_refused(
    edgetok: Run, vit_bundle: Path, image: Path, options: tuple[str, ...], words: str
) -> None:
    done = edgetok("run", vit_bundle, "--image", image, *options)
    assert (done.code, done.out) == (2, "")
    assert words in " ".join(done.err.split())


@pytest.mark.parametrize(
    "verb", [("chat", "BUNDLE", "x.png"), ("eval", "BUNDLE", "--data", "DATA"), ("replay", "x")]
)
def test_verbs_that_need_a_language_model_refuse_in_a_sentence(
    edgetok: Run, vit_bundle: Path, tmp_path: Path, verb: tuple[str, ...]
) -> None:
    data = tmp_path / "samples.jsonl"
    data.write_text('{"image": "x.png", "prompt": "What?", "answer": "a"}\n')
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    filled = [{"BUNDLE": vit_bundle, "DATA": data}.get(word, word) for word in verb]
    done = edgetok(*filled)
    assert done.code in (2, 3, 5)
    assert "bug" not in done.err


def test_pictures_that_cannot_be_read_are_5(edgetok: Run, vit_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    assert edgetok("run", vit_bundle, "--image", tmp_path / "text.png").code == 5
    assert edgetok("run", vit_bundle, "--image", tmp_path / "none.png").code == 5


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--method", "visionzip"), 2, "methods that can: tome"),
        (("--budgets", "17"), 2, "budget 17 is outside 1..16"),
        (("--budgets", "1"), 2, "the nearest possible budget is 4"),
        (("--kv", "think"), 2, "has no use for --kv think; leave it out"),
        (("--prefill", "fastv"), 2, "no use for --prefill"),
        (("--tiles", "2x2"), 2, "no use for --tiles"),
        (("--image-size", "64x64"), 2, "no use for --image-size"),
        (("--new-tokens", "9"), 2, "no use for --new-tokens"),
        (("--mask-sinks",), 2, "no use for --mask-sinks"),
    ],
)
def test_refused_exports_leave_nothing_behind(
    edgetok: Run, vit_dir: Path, tmp_path: Path, options: tuple[str, ...], code: int, words: str
) -> None:
    done = edgetok("export", vit_dir, "-o", tmp_path / "out", "--parity-images", "1", *options)
    assert (done.code, done.out) == (code, "")
    assert words in done.err
    assert not list(tmp_path.iterdir())


def test_a_bundle_that_answers_wants_a_prompt(edgetok: Run, bundle: Path, image: Path) -> None:
    done = edgetok("run", bundle, "--image", image)
    assert done.code == 2 and "--prompt" in done.err
    done = edgetok("run", bundle, "--image", image, "--prompt", "What?", "--text", "cat")
    assert done.code == 2 and "answers questions, so --text means nothing" in done.err
    with pytest.raises(UsageError, match="answers questions"):
        library.load_encoder(bundle)


def request(output: Path | None, *texts: str) -> EncoderRequest:
    return EncoderRequest(texts, output, 5, None, "ort", "cpu", None, False)


def test_depth_is_written_as_16_bits_as_large_as_the_picture(tmp_path: Path, image: Path) -> None:
    depth = np.linspace(2, 6, 12 * 16, dtype=np.float32).reshape(12, 16)
    out = tmp_path / "depth.png"
    fields, _ = show_map(depth, (), image, out)
    drawn = np.asarray(Image.open(out))
    assert drawn.dtype == np.uint16 and drawn.shape == (41, 60)
    assert (drawn.min(), drawn.max()) == (0, 65535)
    assert (np.diff(drawn.astype(int).mean(1)) >= 0).all()  # nearer rows stay nearer
    assert (fields["least"], fields["most"]) == (2.0, 6.0)
    show_map(depth, (), image, tmp_path / "depth.npy")
    assert np.array_equal(np.load(tmp_path / "depth.npy"), depth)
    show_map(np.zeros((3, 3), np.float32), (), image.read_bytes(), out)
    assert not np.asarray(Image.open(out)).any()
    assert not list(tmp_path.glob(".*.part"))


def test_masks_hold_the_number_of_the_class_of_each_pixel(tmp_path: Path, image: Path) -> None:
    scores = np.zeros((3, 4, 4), np.float32)
    scores[2, :2], scores[1, 2:] = 1, 1
    out = tmp_path / "mask.png"
    fields, lines = show_map(scores, ("a", "b", "c"), image, out)
    mask = np.asarray(Image.open(io.BytesIO(out.read_bytes())))
    assert (
        mask.shape == (41, 60) and set(mask[:20].ravel()) == {2} and set(mask[21:].ravel()) == {1}
    )
    assert {each["label"]: each["share"] for each in fields["shares"]} == {"b": 0.5, "c": 0.5}
    assert "written to" in lines[-1]


@pytest.mark.parametrize(
    ("task", "name", "texts", "words"),
    [
        ("depth", "x.jpg", (), "ends in .png or .npy"),
        ("embed", "x.png", (), "ends in .npy"),
        ("similarity", "x.npy", ("a",), "comparing texts takes no --output"),
        ("depth", "x.png", ("a",), "takes no --text"),
    ],
)
def test_outputs_that_do_not_go_with_the_task_are_refused(
    task: str, name: str, texts: tuple[str, ...], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        require_encoder_request(task, request(Path(name), *texts))


def test_scores_are_softmax_or_sigmoid() -> None:
    from edgetok.bundle.encoders import Similarity

    cosines = np.array([0.3, -0.1, 0.25])
    logits, shares = score(cosines, Similarity(scale=20.0, bias=0.0, kind="softmax"))
    wanted = torch.tensor(20 * cosines).softmax(0).numpy()
    assert np.allclose(shares, wanted) and np.allclose(logits, 20 * cosines)
    _, shares = score(cosines, Similarity(scale=100.0, bias=-12.0, kind="sigmoid"))
    assert np.allclose(shares, torch.tensor(100 * cosines - 12).sigmoid().numpy())
