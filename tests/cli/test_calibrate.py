"""`edgetok calibrate`, the bundle that it leaves, traces and their replay, on a tiny model."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from edgetok.bundle.amend import put_controller
from edgetok.bundle.manifest import digest_content
from edgetok.bundle.reader import Bundle
from edgetok.errors import BundleError
from edgetok.runtimes.load import load

from .conftest import Run

LOOSE = ("--loss", "differs", "--risk", "0.7", "--confidence", "0.5")


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty-four pictures with a question each and no answers."""
    folder = tmp_path_factory.mktemp("questions")
    generator = np.random.default_rng(1)
    lines = []
    for number in range(44):
        pixels = generator.integers(0, 255, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "prompt": f"What is {number}?"}))
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "samples.jsonl"


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers that the tests of this file share, as a user's cache keeps them."""
    return tmp_path_factory.mktemp("records") / "records.jsonl"


@pytest.fixture(scope="module")
def halting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that ends at every second token, so that short answers often agree."""
    path = Path(__file__).parents[1] / "runtimes/tiny_vlm.py"
    spec = importlib.util.spec_from_file_location("tiny_vlm_of_calibrate", path)
    assert spec is not None and spec.loader is not None
    tiny = sys.modules.setdefault(spec.name, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(tiny)
    out = tmp_path_factory.mktemp("halting") / "halting.bundle"
    stops = [token for token in range(tiny.VOCABULARY) if token % 2]
    return Path(tiny.write(out, tiny.Recipe(stop_ids=stops)))


@pytest.fixture
def own(halting: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(halting, tmp_path / "own.bundle"))


@pytest.fixture
def calibrated(edgetok: Run, own: Path, questions: Path, records: Path) -> Path:
    done = edgetok("calibrate", own, "--data", questions, "--records", records, *LOOSE)
    assert done.code == 0, done.err
    assert "controller written into" in done.err
    return own


def test_certificate_is_in_the_manifest_and_answers(
    edgetok: Run, calibrated: Path, questions: Path, tmp_path: Path
) -> None:
    opened = Bundle.open(calibrated)
    controller = opened.manifest.controller
    assert controller is not None
    certificate = controller.certificate
    assert (certificate.loss, certificate.unit, certificate.units) == ("differs", "question", 22)
    assert certificate.bundle_sha256 == digest_content(opened.manifest)
    image, trace = questions.parent / "3.png", tmp_path / "trace.jsonl"
    options = ("--image", image, "--prompt", "What is 3?", "--trace", trace)
    fields = edgetok("run", calibrated, *options, "--json").json
    assert "certified risk of 70 %" in fields["reason"]
    assert fields["attempts"][-1]["budget"] == fields["budget"]
    for number in range(4):
        asked = ("--image", questions.parent / f"{number}.png", "--prompt", f"What is {number}?")
        assert edgetok("run", calibrated, *asked, "--trace", trace).code == 0
    replayed = edgetok("replay", trace, calibrated, "--json").json
    assert (replayed["questions"], replayed["same"], replayed["unknown"]) == (5, 5, 0)
    largest = edgetok("replay", trace, calibrated, "--budget", "16")
    assert largest.code == 0 and "of 5 decisions are the same" in largest.out
    strange = edgetok("replay", trace, calibrated.parent / "none.bundle")
    assert strange.code == 3 and "Traceback" not in strange.err


def test_live_answers_are_those_of_the_records(
    calibrated: Path, records: Path, questions: Path
) -> None:
    """What was certified is what runs: the same rungs, the same text."""
    from edgetok.calibration.records import Record
    from edgetok.control import Certified
    from edgetok.control.certified import list_tried

    model = load(calibrated)
    controller = model.manifest.controller
    assert controller is not None
    lines = records.read_bytes().splitlines()
    asked = {tuple(r.question): r for r in (msgspec.json.decode(x, type=Record) for x in lines)}
    seen = set()
    for number in range(0, 44, 4):
        prompt = f"What is {number}?"
        record = asked[model.question_ids(prompt)]
        answers = {b: rung.signals for b, rung in record.rungs.items()}
        policy = Certified(controller)
        tried = list_tried(policy, model.ladder, record.signals, record.question, answers)
        answer = model.generate(questions.parent / f"{number}.png", prompt)
        assert [attempt.budget for attempt in answer.attempts] == tried
        assert answer.text == record.rungs[tried[-1]].text
        seen.add(tuple(tried))
    assert seen != {(16,)}


def test_records_are_not_asked_again(
    edgetok: Run, own: Path, questions: Path, records: Path, calibrated: Path
) -> None:
    before = records.read_bytes()
    torn = records.with_name("torn.jsonl")
    torn.write_bytes(before[:-20])
    done = edgetok("calibrate", own, "--data", questions, "--records", torn, "--dry-run", *LOOSE)
    assert done.code == 0
    whole = [line for line in torn.read_bytes().splitlines() if line in before.splitlines()]
    assert len(whole) == 43 and len(torn.read_bytes().splitlines()) == 45


def test_dry_run_leaves_the_bundle_as_it_is(
    edgetok: Run, own: Path, questions: Path, records: Path
) -> None:
    before = (own / "manifest.json").read_bytes()
    options = ("--data", questions, "--records", records, "--dry-run", *LOOSE)
    assert edgetok("calibrate", own, *options).code == 0
    assert (own / "manifest.json").read_bytes() == before


def test_what_cannot_be_certified_is_said(
    edgetok: Run, own: Path, questions: Path, records: Path
) -> None:
    options = ("--data", questions, "--records", records, "--loss", "differs", "--risk", "0.001")
    done = edgetok("calibrate", own, *options)
    assert done.code == 0
    assert "not certified for a risk of 0.1 % with 95 % confidence" in done.out
    assert "full rung goes on answering" in done.out
    assert Bundle.open(own).manifest.controller is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "44 of 44 samples have no `answer`"),
        (("--loss", "differs", "--risk", "2"), "--risk 2.0 is outside 0..1"),
        (("--loss", "differs", "--confidence", "1"), "--confidence 1.0 is outside 0..1"),
        (("--loss", "differs", "--count", "10"), "10 images are too few"),
    ],
)
def test_bad_requests_are_sentences(
    edgetok: Run, own: Path, questions: Path, tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    kept = tmp_path / "records.jsonl"
    done = edgetok("calibrate", own, "--data", questions, "--records", kept, *options)
    assert not kept.exists()  # nothing was asked
    assert done.code in (2, 5) and says in done.err
    assert "Traceback" not in done.err
    assert Bundle.open(own).manifest.controller is None


def test_a_certificate_of_another_bundle_is_refused(
    edgetok: Run, calibrated: Path, questions: Path
) -> None:
    opened = Bundle.open(calibrated)
    controller = opened.manifest.controller
    assert controller is not None
    foreign = msgspec.structs.replace(
        controller,
        certificate=msgspec.structs.replace(controller.certificate, bundle_sha256="0" * 64),
    )
    with pytest.raises(BundleError, match="issued for another bundle"):
        put_controller(opened, foreign)
    text = (calibrated / "manifest.json").read_text()
    forged = text.replace(controller.certificate.bundle_sha256, "0" * 64)
    (calibrated / "manifest.json").write_text(forged)
    done = edgetok("run", calibrated, "--image", questions.parent / "1.png", "--prompt", "?")
    assert done.code == 3 and "issued for another bundle" in done.err


def test_measurements_outlive_a_calibration(
    edgetok: Run, own: Path, questions: Path, records: Path
) -> None:
    before = load(own).digest
    options = ("--data", questions, "--records", records, *LOOSE)
    assert edgetok("calibrate", own, *options).code == 0
    assert load(own).digest == before
