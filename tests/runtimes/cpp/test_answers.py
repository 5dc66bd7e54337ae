"""Both libraries give the same tokens, kept indices and decisions."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

import edgetok
from edgetok.bundle.manifest import digest_content
from edgetok.bundle.reader import Bundle
from edgetok.control import BenchTable, Certified, Limit, Row
from edgetok.control.certified import list_tried
from edgetok.ladder import Ladder, Rung
from edgetok.rules import Case, Certificate, Controller, Rule, Scorer

PROMPTS = ["What is this?", "", "Wie viele? Zähle!", "one two three"]


class Both:
    """One bundle in both libraries."""

    def __init__(self, library, capi, folder: Path, **options) -> None:
        self.python = edgetok.load(folder, threads=1, **options)
        self.cpp = capi.Model(capi.Bundle(library, folder), threads=1, **options)

    def ask_python(self, picture, text, **request):
        self.python.forget()  # computed from the first row on; test_reuse.py has the rest
        return self.python.generate(picture, text, **request)

    def ask_cpp(self, picture, text, **request):
        prompt = self.python.processor.encode(text)
        image = picture if not isinstance(picture, np.ndarray) else self.cpp.image(picture)
        self.cpp.forget()
        return self.cpp.generate(image, prompt.before, prompt.after, prompt.question, **request)

    def require_same(self, picture, text, budget=0, **request) -> None:
        want = self.ask_python(picture, text, budget=budget or None)
        found = self.ask_cpp(picture, text, budget=budget, **request)
        assert found.tokens == list(want.token_ids)
        assert found.kept == list(want.kept)
        assert found.tried == [attempt.budget for attempt in want.attempts]
        assert (found.stop, found.reason) == (want.stop_reason, want.reason)
        assert found.signals == want.signals
        assert found.exit_layer == (-1 if want.exit_layer is None else want.exit_layer)
        confidence = want.confidence  # to the last bit: controllers decide by it
        assert found.margin == confidence.first_margin
        assert found.log_probability == confidence.mean_log_probability


@pytest.fixture(scope="module", params=["fp32", "int8"])
def both(request, library, capi, tiny_vlm, tmp_path_factory) -> Both:
    folder = tmp_path_factory.mktemp("both") / "tiny.bundle"
    tiny_vlm.write(folder, tiny_vlm.Recipe(int8_cache=request.param == "int8"))
    return Both(library, capi, folder)


@pytest.fixture(scope="module")
def one(library, capi, tiny_vlm, tmp_path_factory) -> Both:
    folder = tmp_path_factory.mktemp("one") / "tiny.bundle"
    tiny_vlm.write(folder, tiny_vlm.Recipe(stop_ids=()))
    return Both(library, capi, folder)


def _pictures():
    random = np.random.default_rng(11)
    return [random.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((10, 12), (31, 9), (8, 8))]


@pytest.mark.parametrize("text", PROMPTS)
@pytest.mark.parametrize("budget", [0, 4, 8, 16])
def test_answers_are_equal(both, budget, text):
    for picture in _pictures():
        both.require_same(picture, text, budget)


def test_one_image_serves_many_questions(one):
    picture = _pictures()[0]
    image = one.cpp.image(picture)
    first = one.ask_cpp(image, PROMPTS[0], budget=4)
    again = one.ask_cpp(image, PROMPTS[2], budget=8)
    assert first.timings["tower_ms"] > 0
    assert again.timings["tower_ms"] == 0
    assert again.tokens == list(one.ask_python(picture, PROMPTS[2], budget=8).token_ids)


def test_tokens_are_told_as_they_come_and_a_callback_cancels(one):
    told: list[int] = []
    answer = one.ask_cpp(_pictures()[0], "Hi", on_token=lambda token: told.append(token) or 0)
    assert told == answer.tokens
    assert len(told) > 3
    told.clear()
    answer = one.ask_cpp(
        _pictures()[0], "Hi", on_token=lambda token: told.append(token) or len(told) >= 2
    )
    assert (answer.stop, answer.tokens) == ("cancelled", told)
    assert len(told) == 2


def test_another_thread_cancels(one):
    def cancel(_: int) -> int:
        other = threading.Thread(target=one.cpp.cancel)
        other.start()
        other.join()
        return 0

    answer = one.ask_cpp(_pictures()[0], "Hi", on_token=cancel)
    assert (answer.stop, len(answer.tokens)) == ("cancelled", 1)
    assert one.ask_cpp(_pictures()[0], "Hi").stop != "cancelled"


def test_a_second_answer_meanwhile_is_refused(one, capi):
    refused, image = [], one.cpp.image(_pictures()[0])

    def ask_again(_: int) -> int:
        with pytest.raises(capi.Failure, match="is answering already") as caught:
            one.cpp.generate(image, [2], [9, 10])
        refused.append(caught.value.status)
        return 1

    one.ask_cpp(_pictures()[0], "Hi", on_token=ask_again)
    assert refused == [2]


def test_lengths_are_kept(one):
    for count in (1, 2, 5):
        answer = one.ask_cpp(_pictures()[0], "Hi", max_new_tokens=count)
        assert (len(answer.tokens), answer.stop) == (count, "length")


def test_no_answer_begins_with_numbers_that_are_none(library, capi, tiny_vlm, tmp_path):
    tiny_vlm.write(tmp_path / "tiny.bundle", tiny_vlm.Recipe(nan_budget=8))
    both = Both(library, capi, tmp_path / "tiny.bundle")
    found = both.ask_cpp(_pictures()[0], "Hi", budget=8)
    assert (found.stop, found.tokens, found.margin) == ("numeric", [], -1)
    both.require_same(_pictures()[0], "Hi", 4)


@pytest.mark.parametrize(
    ("request_", "prompt", "status", "message"),
    [
        ({"budget": 5}, {}, 2, r"no rung of 5 visual tokens; loaded are \[4, 8, 16\]"),
        ({"max_new_tokens": -1}, {}, 2, "max_new_tokens -1 is outside"),
        ({"max_new_tokens": 40_000}, {}, 2, "outside 1..32768"),
        ({"budget": 4, "elbow": 1}, {}, 2, "exclude each other"),
        ({"max_ttft_ms": 5.0}, {}, 2, "table, which limits need, is NULL"),
        ({"max_ttft_ms": -5.0}, {}, 2, "no positive number"),
        ({"max_ttft_ms": 5.0, "table": b"{"}, {}, 2, "not valid JSON"),
        ({}, {"after": [0] * 40}, 5, "41 text tokens, template included, and at most 40 fit"),
        ({}, {"after": [1] * 40_000}, 5, "at most 32768 are read"),
        ({}, {"before": [-1]}, 5, "token id -1 is outside the vocabulary of 260"),
        ({}, {"after": [260]}, 5, "token id 260 is outside"),
        ({}, {"question": range(3, 9)}, 2, "question lies outside"),
    ],
)
def test_what_cannot_be_asked(one, capi, request_, prompt, status, message):
    ids = {"before": [2], "after": [9, 10]} | prompt
    image = one.cpp.image(_pictures()[0])
    with pytest.raises(capi.Failure, match=message) as caught:
        one.cpp.generate(image, **ids, **request_)
    assert caught.value.status == status


def test_what_cannot_be_loaded(library, capi, bundle_dir, tiny_vlm, tmp_path):
    bundle = capi.Bundle(library, tiny_vlm.write(tmp_path / "good.bundle"))
    for options, message in (
        ({"budgets": [5]}, "no rung of 5"),
        ({"threads": 5000}, "outside 1..1024"),
        ({"flavour": "portable"}, "has no portable graph of tower"),
    ):
        with pytest.raises(capi.Failure, match=message) as caught:
            capi.Model(bundle, **options)
        assert caught.value.status == 2
    # Its graphs are sound, and do not fit together: nothing may be written beyond a buffer.
    with pytest.raises(capi.Failure, match="have 0 rows") as caught:
        capi.Model(capi.Bundle(library, bundle_dir))
    assert caught.value.status == 3


def test_an_image_belongs_to_its_bundle(one, library, capi, tiny_vlm, tmp_path):
    tiny_vlm.write(tmp_path / "other.bundle", tiny_vlm.Recipe(seed=5))
    other = Both(library, capi, tmp_path / "other.bundle")
    with pytest.raises(capi.Failure, match="prepared for another bundle"):
        one.ask_cpp(other.cpp.image(_pictures()[0]), "Hi")


def test_some_rungs_only(library, capi, tiny_vlm, tmp_path):
    tiny_vlm.write(tmp_path / "tiny.bundle")
    both = Both(library, capi, tmp_path / "tiny.bundle", budgets=[4, 8])
    both.require_same(_pictures()[0], "Hi")
    with pytest.raises(capi.Failure, match=r"loaded are \[4, 8\]"):
        both.ask_cpp(_pictures()[0], "Hi", budget=16)


def test_nulls_are_refused_and_freed(library, capi):
    raw = library.raw
    for kind in ("bundle", "model", "image", "answer"):
        getattr(raw, f"edgetok_{kind}_free")(None)
    assert raw.edgetok_bundle_open(None, 0, None) == 2
    assert raw.edgetok_bundle_check(None) == 2
    assert raw.edgetok_model_load(None, None, None) == 2
    assert raw.edgetok_generate(None, None, None, None, None) == 2
    assert raw.edgetok_message() == b"answer is NULL"


def test_memory_is_accounted_for(one):
    memory = one.cpp.memory
    kv = one.python.manifest.kv
    row = 2 * 4 * kv.kv_heads * kv.head_dim
    assert memory["cache_bytes"] == row * sum(kv.slots)
    assert memory["buffers_bytes"] > 0
    assert memory["resident_bytes"] > memory["cache_bytes"]


@pytest.mark.parametrize(("most_ms", "budget"), [(100.0, 16), (15.0, 8), (5.0, 4), (1.0, 4)])
def test_limits_choose_the_same_rung(one, most_ms, budget):
    digest = digest_content(one.python.manifest)
    rows = tuple(Row(b, 1.0, ms, 1.0, 90.5 + b) for b, ms in ((4, 3.21), (8, 12.5), (16, 44.125)))
    table = BenchTable(digest, "cpu", rows)
    want = Limit(table, most_ms, 200.0).choose(one.python.ladder, {})
    found = one.ask_cpp(
        _pictures()[0],
        "Hi",
        max_ttft_ms=most_ms,
        max_memory_mib=200.0,
        table=msgspec.json.encode(table),
    )
    assert (found.tried, found.reason) == ([budget], want.reason)
    assert want.rung.budget == budget


def _controller(manifest, random, margin: float) -> Controller:
    """Rules over what the tiny model has: the length of the question, and how sure it is."""
    certificate = Certificate(
        risk=0.05,
        confidence=0.95,
        loss="differs",
        unit="question",
        units=100,
        mean_loss=0.0,
        p_value=0.01,
        mean_tokens=5.0,
        data_sha256="0" * 64,
        bundle_sha256=digest_content(manifest),
        flavour="ort",
    )

    def rule(budget: int) -> Rule:
        tokens = sorted(random.choice(260, 40, replace=False).tolist())
        weights = random.normal(size=40).tolist()
        enter = Scorer(bias=0.1, per_token=0.3, tokens=list(zip(tokens, weights, strict=True)))
        accept = Scorer(signals={"answer_margin": -1.0})
        return Rule(
            budget=budget,
            enter=enter,
            enter_at_most=3.0,
            accept=accept,
            accept_at_most=-margin,
        )

    bare = Controller(rules=[rule(4), rule(8)], full=16, certificate=certificate, cases=[])
    ladder = Ladder(tuple(Rung(b, 40, b + 48) for b in (4, 8, 16)))
    return msgspec.structs.replace(bare, cases=[_case(bare, ladder, random) for _ in range(30)])


def _case(controller: Controller, ladder: Ladder, random) -> Case:
    question = random.integers(0, 260, random.integers(0, 12)).tolist()
    answers = {b: {"answer_margin": float(random.random())} for b in (4, 8, 16)}
    tried = list_tried(Certified(controller), ladder, {}, question, answers)
    return Case(signals={}, question=question, answers=[answers[b] for b in tried], budgets=tried)


@pytest.mark.parametrize("margin", [0.0, 0.02, 0.5])
def test_a_certified_controller_tries_the_same_rungs(
    library, capi, tiny_vlm, tiny, tmp_path, margin
):
    folder = tiny_vlm.write(tmp_path / "tiny.bundle")
    manifest = Bundle.open(folder).manifest
    controller = _controller(manifest, np.random.default_rng(4), margin)
    added = json.loads(msgspec.json.encode(controller))
    tiny.edit_manifest(folder, lambda tree: tree.update(controller=added))
    library.check(folder)  # repeats the 30 cases
    both = Both(library, capi, folder)
    for text in PROMPTS:
        both.require_same(_pictures()[0], text)
    for case in (0, 7):  # a case that says otherwise is noticed
        added["cases"][case]["budgets"] = [8, 4]
        tiny.edit_manifest(folder, lambda tree: tree.update(controller=added))
        with pytest.raises(capi.Failure, match=rf"cases\[{min(case, 0)}\] tries the rungs"):
            library.check(folder)


def test_a_certificate_of_another_bundle_is_refused(library, capi, tiny_vlm, tiny, tmp_path):
    folder = tiny_vlm.write(tmp_path / "tiny.bundle")
    controller = _controller(Bundle.open(folder).manifest, np.random.default_rng(4), 0.0)
    added = json.loads(msgspec.json.encode(controller))
    tiny.edit_manifest(folder, lambda tree: tree.update(controller=added, seed=99))
    with pytest.raises(capi.Failure, match="issued for another bundle"):
        library.check(folder)


# ---- the demo model ----

DEMO = Path(__file__).parents[3] / "examples" / "demo_vlm"


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Path:
    """200 questions about 50 images."""
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("samples")
    maker = [sys.executable, "make.py", "--split", "calibrate", "--questions-per-image", "4"]
    subprocess.run([*maker, "--count", "200", "-o", str(folder)], cwd=DEMO, check=True)
    return folder / "samples.jsonl"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weights", "kv", "options", "questions"),
    [
        ("fp32", "fp32", {}, 200),
        ("int8", "int8", {}, 200),
        ("int4", "int8", {}, 200),
        ("int4", "int4", {}, 30),
        ("fp32", "fp32", {"kv_policy": "streaming", "kv_slots": 200}, 30),
        ("fp32", "fp32", {"method": "catp"}, 30),
        ("fp32", "fp32", {"method": "tome"}, 30),
        ("fp32", "fp32", {"prefill": "fastv"}, 30),
        ("fp32", "fp32", {"prefill": "sparsevlm"}, 30),
    ],
    ids=str,
)
def test_questions_about_the_demo(
    library, capi, samples, weights, kv, options, questions, tmp_path
):
    from edgetok.calibration.samples import load_samples
    from edgetok.export.pipeline import export_model

    folder = tmp_path / "demo.bundle"
    fixed = {"new_tokens": 24, "parity_images": 1, "budgets": "16,64,full", "samples": samples}
    export_model(DEMO / "checkpoint", folder, weights=weights, kv=kv, **(fixed | options))
    both = Both(library, capi, folder)
    budgets = both.python.ladder.budgets
    for number, sample in enumerate(load_samples(samples)[:questions]):  # dealt out in turn
        with Image.open(sample.image) as image:
            picture = np.asarray(image.convert("RGB"))
        both.require_same(picture, sample.prompt, budgets[number % len(budgets)])
