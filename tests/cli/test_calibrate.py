"""`edgetok calibrate`, the bundle that it leaves, traces and their replay, on a tiny model."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from edgetok import names
from edgetok.bundle.amend import put_controller
from edgetok.bundle.manifest import digest_content
from edgetok.bundle.reader import Bundle
from edgetok.calibration.certify import Aim
from edgetok.calibration.samples import load_samples
from edgetok.control.thumbnail import describe
from edgetok.errors import BundleError, VerificationError
from edgetok.rules import Rule, Scorer, Thumbnail
from edgetok.runtimes.calibrate import calibrate
from edgetok.runtimes.checks import Report
from edgetok.runtimes.load import load
from edgetok.runtimes.verify import decision_checks

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


def test_an_interrupted_calibration_goes_on_where_it_was(
    own: Path, questions: Path, tmp_path: Path
) -> None:
    """Interrupted as by Ctrl-C while the twelfth question was to be asked."""
    kept, samples = tmp_path / "records.jsonl", load_samples(questions, count=24)
    aim = Aim(risk=0.7, confidence=0.5, loss="differs")

    def interrupt(doing: str, share: float) -> None:
        if share >= 11 / 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(own, samples, aim, records=kept, progress=interrupt)
    before = kept.read_bytes()
    assert len(before.splitlines()) == 11 and Bundle.open(own).manifest.controller is None
    assert calibrate(own, samples, aim, records=kept).controller is not None
    assert kept.read_bytes().startswith(before) and len(kept.read_bytes().splitlines()) == 24


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


def test_audits_ask_the_full_rung_and_replay_adds_them_up(
    edgetok: Run, calibrated: Path, questions: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.jsonl"
    for number in range(6):
        asked = ("--image", questions.parent / f"{number}.png", "--prompt", f"What is {number}?")
        done = edgetok("run", calibrated, *asked, "--trace", trace, "--audit", 1)
        assert done.code == 0, done.err
    entries = [json.loads(line) for line in trace.read_text().splitlines()]
    model = load(calibrated)
    for number, entry in enumerate(entries):
        image, prompt = questions.parent / f"{number}.png", f"What is {number}?"
        texts = [
            model.generate(image, prompt, budget=budget).text
            for budget in (entry["tried"][-1]["budget"], 16)
        ]
        assert entry["differs"] == (texts[0] != texts[1])
    fields = edgetok("replay", trace, calibrated, "--json").json
    differing = sum(entry["differs"] for entry in entries)
    assert fields["drift"]["audits"] == 6 and fields["drift"]["differ"] == differing
    assert "audited answers differ" in edgetok("replay", trace, calibrated).out


def test_drift_is_a_warning_of_the_audit_that_finds_it(
    edgetok: Run, calibrated: Path, questions: Path, tmp_path: Path
) -> None:
    """A trace of which every answer differed, as if the questions had changed."""
    trace = tmp_path / "trace.jsonl"
    asked = ("--image", questions.parent / "3.png", "--prompt", "What is 3?", "--trace", trace)
    assert edgetok("run", calibrated, *asked, "--audit", 1).code == 0
    line = json.loads(trace.read_text().splitlines()[0]) | {"differs": True}
    with trace.open("a") as file:
        file.write((json.dumps(line) + "\n") * 60)
    done = edgetok("run", calibrated, *asked, "--audit", 1)
    assert done.code == 0 and "DRIFT: " in done.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--audit", 0.5), "give --trace"),
        (("--audit", 0.5, "--trace", "t", "--budget", 16), "watches the certified controller"),
        (("--audit", 0.5, "--trace", "t", "--temperature", 1), "watches the certified controller"),
        (("--audit", 2, "--trace", "t"), "--audit 2.0 is no share"),
    ],
)
def test_audits_that_would_tell_nothing_are_refused(
    edgetok: Run, calibrated: Path, questions: Path, options: tuple[object, ...], says: str
) -> None:
    asked = ("--image", questions.parent / "3.png", "--prompt", "What is 3?")
    done = edgetok("run", calibrated, *asked, *options)
    assert done.code == 2 and says in done.err and done.out == ""


def test_a_bundle_without_a_certificate_is_not_audited(
    edgetok: Run, own: Path, questions: Path, tmp_path: Path
) -> None:
    asked = ("--image", questions.parent / "3.png", "--prompt", "What is 3?")
    done = edgetok("run", own, *asked, "--audit", 1, "--trace", tmp_path / "t")
    assert done.code == 2 and "run `edgetok calibrate` first" in done.err


def test_verify_repeats_the_decisions(calibrated: Path) -> None:
    opened = Bundle.open(calibrated)
    checks = list(decision_checks(opened))
    assert len(checks) == 8 and all(check.passed for check in checks)
    controller = opened.manifest.controller
    assert controller is not None
    wrong = [msgspec.structs.replace(c, budgets=[16, 16, 16]) for c in controller.cases]
    put_controller(opened, msgspec.structs.replace(controller, cases=wrong))
    report = Report(tuple(decision_checks(Bundle.open(calibrated))))
    with pytest.raises(VerificationError, match="8 of 8 checks failed: decisions of case 0"):
        report.require_passed()


def test_the_thumbnail_of_a_controller_chooses_live(calibrated: Path, questions: Path) -> None:
    """Rung 4 is entered for pictures that are dark in their upper half, and for no others."""
    opened = Bundle.open(calibrated)
    controller = opened.manifest.controller
    assert controller is not None
    weights = [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    rule = Rule(
        budget=4,
        enter=Scorer(signals={names.SIGNAL_COMPLEXITY: 1.0}),
        enter_at_most=0.0,
        accept=Scorer(),
        accept_at_most=0.0,
    )
    made = msgspec.structs.replace(
        controller,
        rules=[rule],
        cases=[],
        thumbnail=Thumbnail(cells=2, bias=0.0, weights=weights),
    )
    put_controller(opened, made)
    model = load(calibrated)
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[20:] = 255
    for upright, budget in ((picture, 4), (picture[::-1].copy(), 16)):
        answer = model.generate(upright, "What?", max_new_tokens=1)
        assert answer.budget == budget
        cells = describe(model.processor.pixels(upright), 2)
        assert answer.signals[names.SIGNAL_COMPLEXITY] == cells[0] + cells[1]
    short = msgspec.structs.replace(made, thumbnail=Thumbnail(cells=2, bias=0.0, weights=[1.0] * 7))
    with pytest.raises(BundleError, match="7 weights for 2 cells a side, which need 8"):
        put_controller(opened, short)


@pytest.fixture
def others(questions: Path, tmp_path: Path) -> Path:
    """Other questions about the pictures of a calibration, two each, of which some are known."""
    lines = []
    for number in range(0, 44, 4):
        image = str(questions.parent / f"{number}.png")
        for prompt in (f"And {number}?", "What else?"):
            lines.append({"image": image, "prompt": prompt})
    path = tmp_path / "others.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return path


def test_a_certificate_is_held_against_other_questions(
    edgetok: Run, calibrated: Path, others: Path
) -> None:
    """Counted here one by one, with the answers of `generate` as a user calls it."""
    asked = [json.loads(line) for line in others.read_text().splitlines()]
    model, same, tokens = load(calibrated), [], []
    for one in asked:
        model.forget()
        answer = model.generate(Path(one["image"]), one["prompt"])
        model.forget()
        full = model.generate(Path(one["image"]), one["prompt"], budget=16)
        same.append(answer.text == full.text)
        tokens.append(sum(attempt.budget for attempt in answer.attempts))
    fields = edgetok("eval", calibrated, "--data", others, "--controller", "--json").json
    assert (fields["samples"], fields["images"]) == (22, 11)
    assert (fields["same"]["right"], fields["same"]["total"]) == (sum(same), 22)
    assert sum(same) > 0 and fields["mean_loss"] == pytest.approx(1 - np.mean(same))
    assert fields["mean_tokens"] == pytest.approx(np.mean(tokens))
    assert (fields["risk"], fields["confidence"], fields["loss"]) == (0.7, 0.5, "differs")
    assert fields["right"] is None and sum(fields["taken"].values()) == 22
    assert fields["holds"] and fields["p_value"] > 0.5
    shown = edgetok("eval", calibrated, "--data", others, "--controller", "--count", "4")
    assert shown.code == 0 and "nothing here speaks against the certificate" in shown.out


def test_a_certificate_that_does_not_hold_is_told(
    edgetok: Run, calibrated: Path, questions: Path
) -> None:
    """The smallest rung for everything, under a promise that nobody tested."""
    opened = Bundle.open(calibrated)
    controller = opened.manifest.controller
    assert controller is not None
    rule = Rule(budget=4, enter=Scorer(), enter_at_most=1.0, accept=Scorer(), accept_at_most=1.0)
    promise = msgspec.structs.replace(controller.certificate, risk=0.01, confidence=0.95)
    bold = msgspec.structs.replace(controller, rules=[rule], cases=[], certificate=promise)
    put_controller(opened, bold)
    options = ("--data", questions, "--controller")
    fields = edgetok("eval", calibrated, *options, "--json").json
    lost = fields["samples"] - fields["same"]["right"]
    assert lost > 3 and not fields["holds"] and fields["taken"] == {"4": 44}
    # P(Bin(44, 0.01) >= lost), written out.
    tail = sum(math.comb(44, k) * 0.01**k * 0.99 ** (44 - k) for k in range(lost, 45))
    assert fields["p_value"] == pytest.approx(tail)
    assert (
        "the certificate does not hold on these samples"
        in edgetok("eval", calibrated, *options).out
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [(("--budgets", "4"), "--budgets exclude"), (("--plot", "x.png"), "--plot exclude")],
)
def test_the_controller_is_asked_alone(
    edgetok: Run, calibrated: Path, questions: Path, options: tuple[str, ...], says: str
) -> None:
    done = edgetok("eval", calibrated, "--data", questions, "--controller", *options)
    assert done.code == 2 and says in done.err


def test_a_bundle_without_a_controller_has_none_to_ask(
    edgetok: Run, own: Path, questions: Path
) -> None:
    done = edgetok("eval", own, "--data", questions, "--controller")
    assert done.code == 2 and "edgetok calibrate" in done.err


def test_wrong_answers_need_known_ones(edgetok: Run, calibrated: Path, questions: Path) -> None:
    opened = Bundle.open(calibrated)
    controller = opened.manifest.controller
    assert controller is not None
    promise = msgspec.structs.replace(controller.certificate, loss="wrong")
    put_controller(opened, msgspec.structs.replace(controller, cases=[], certificate=promise))
    done = edgetok("eval", calibrated, "--data", questions, "--controller")
    assert done.code == 5 and "44 of 44 samples have no `answer`" in done.err
    known = questions.with_name("known.jsonl")
    lines = [json.loads(line) | {"answer": "x"} for line in questions.read_text().splitlines()]
    known.write_text("\n".join(map(json.dumps, lines)) + "\n")
    fields = edgetok("eval", calibrated, "--data", known, "--controller", "--json").json
    assert (fields["right"]["total"], fields["full_right"]["right"], fields["mean_loss"]) == (
        44,
        0,
        0.0,
    )
