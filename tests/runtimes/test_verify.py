"""Golden cases: a sound bundle passes, and every kind of deviation is named."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from edgetok.bundle.golden import GoldenCase, GoldenRung, encode_golden
from edgetok.bundle.reader import Bundle
from edgetok.errors import BundleError, VerificationError
from edgetok.runtimes.generate import Model
from edgetok.runtimes.load import load
from edgetok.runtimes.verify import Report, cosine, mismatches, verify

IMAGE = "golden/scene.png"
PROMPT = "what is it?"


def png(photo: np.ndarray) -> bytes:
    target = io.BytesIO()
    Image.fromarray(photo).save(target, "PNG")
    return target.getvalue()


@pytest.fixture
def case(model: Model, photo: np.ndarray) -> GoldenCase:
    prompt = model.processor.encode(PROMPT)
    rungs = {}
    for budget in model.ladder.budgets:
        answer = model.generate(photo, PROMPT, budget=budget)
        rungs[budget] = GoldenRung(
            kept=np.array(answer.kept),
            logits=model.first_logits(photo, PROMPT, budget=budget),
            answer_ids=np.array(answer.token_ids),
        )
    return GoldenCase(
        name="scene",
        image=IMAGE,
        prompt=PROMPT,
        pixels=model.processor.pixels(photo)[0],
        text_ids=np.array([*prompt.before, -1, *prompt.after]),
        rungs=rungs,
    )


def report(tiny_vlm: ModuleType, out: Path, photo: np.ndarray, case: GoldenCase) -> Report:
    golden = encode_golden([case]) | {IMAGE: png(photo)}
    opened = Bundle.open(tiny_vlm.write(out, extra=golden))
    return verify(opened, load(opened, threads=1))


def changed(case: GoldenCase, budget: int, **changes: np.ndarray) -> GoldenCase:
    rung = dataclasses.replace(case.rungs[budget], **changes)
    return dataclasses.replace(case, rungs={**case.rungs, budget: rung})


def test_a_sound_bundle_passes(tiny_vlm, tmp_path, photo, case) -> None:
    result = report(tiny_vlm, tmp_path / "b", photo, case)
    assert result.failures == ()
    result.require_passed()
    found = [(check.budget, check.what) for check in result.checks]
    rung_checks = ["kept", "logits", "logits cosine", "answer ids"]
    wanted = [(None, "pixels"), (None, "prompt ids")]
    assert found == wanted + [(k, what) for k in (4, 8, 16) for what in rung_checks]


@pytest.mark.parametrize("what", ["pixels", "prompt ids", "kept", "logits", "answer ids"])
def test_a_deviation_is_named(tiny_vlm, tmp_path, photo, case: GoldenCase, what: str) -> None:
    rung = case.rungs[8]
    damaged = {
        "prompt ids": dataclasses.replace(case, text_ids=case.text_ids[::-1].copy()),
        "kept": changed(case, 8, kept=rung.kept[::-1].copy()),
        "logits": changed(case, 8, logits=rung.logits + np.float32(0.01)),
        "answer ids": changed(case, 8, answer_ids=rung.answer_ids[:-2]),
    }
    if what == "pixels":
        result = report(tiny_vlm, tmp_path / "b", np.flip(photo, 0).copy(), case)
    elif what == "answer ids":
        other = rung.answer_ids.copy()
        other[3] = (other[3] + 1) % 200
        result = report(tiny_vlm, tmp_path / "b", photo, changed(case, 8, answer_ids=other))
    else:
        result = report(tiny_vlm, tmp_path / "b", photo, damaged[what])
    assert {check.what for check in result.failures} == {what}
    with pytest.raises(VerificationError, match=f"1 of 14 checks failed: {what} of scene"):
        result.require_passed()


def test_logits_that_are_not_numbers_fail(tiny_vlm, tmp_path, photo, case: GoldenCase) -> None:
    logits = np.full_like(case.rungs[4].logits, np.nan)
    result = report(tiny_vlm, tmp_path / "b", photo, changed(case, 4, logits=logits))
    assert [check.what for check in result.failures] == ["logits", "logits cosine"]


def test_a_bundle_without_golden_cases_says_so(opened: Bundle, model: Model) -> None:
    with pytest.raises(BundleError, match="golden"):
        verify(opened, model)


def test_measures_of_difference() -> None:
    assert mismatches((1, 2, 3), np.array([1, 5, 3])) == 1
    assert mismatches((1, 2, 3), np.array([1, 2])) == 1
    assert mismatches((), np.array([4, 4])) == 2
    a = np.array([1, 0], np.float32)
    assert cosine(a, np.array([0, 2], np.float32)) == 0
    assert cosine(a, 3 * a) == 1
    assert np.isnan(cosine(a, 0 * a))
