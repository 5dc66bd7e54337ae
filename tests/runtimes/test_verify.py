"""Golden cases: a sound bundle passes, and every kind of deviation is named."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest
from PIL import Image

from edgetok.bundle.golden import GoldenCase, GoldenRung, encode_golden
from edgetok.bundle.manifest import Manifest, Precision, Stage
from edgetok.bundle.reader import Bundle
from edgetok.errors import BundleError, VerificationError
from edgetok.runtimes.answers.model import Model
from edgetok.runtimes.checks import Report, cosine, displaced, mismatches, relative
from edgetok.runtimes.load import load
from edgetok.runtimes.runtime.cache import CacheRows
from edgetok.runtimes.runtime.runtime import BundleRuntime
from edgetok.runtimes.verify import (
    EXACT,
    INT4_CACHE,
    INT8_CACHE,
    largest_regret,
    tolerances_for,
    verify,
)

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
    rung_checks = ["kept", "logits", "logits cosine", "extension", "answer ids"]
    wanted = [(None, "pixels"), (None, "prompt ids")]
    assert found == wanted + [(k, what) for k in (4, 8, 16) for what in rung_checks]


def another(ids: np.ndarray, index: int) -> np.ndarray:
    """The same answer with another token in one place."""
    changed_ids = ids.copy()
    changed_ids[index] = (changed_ids[index] + 1) % 200
    return changed_ids


@pytest.mark.parametrize("what", ["pixels", "prompt ids", "kept", "logits", "answer ids"])
def test_a_deviation_is_named(tiny_vlm, tmp_path, photo, case: GoldenCase, what: str) -> None:
    rung = case.rungs[8]
    nudge = np.zeros_like(rung.logits)
    nudge[11] = 0.01
    damaged = {
        "pixels": case,
        "prompt ids": dataclasses.replace(case, text_ids=case.text_ids[::-1].copy()),
        "kept": changed(case, 8, kept=rung.kept[::-1].copy()),
        "logits": changed(case, 8, logits=rung.logits + nudge),
        "answer ids": changed(case, 8, answer_ids=another(rung.answer_ids, 7)),
    }
    seen = np.flip(photo, 0).copy() if what == "pixels" else photo
    result = report(tiny_vlm, tmp_path / "b", seen, damaged[what])
    assert {check.what for check in result.failures} == {what}
    with pytest.raises(VerificationError, match=f"1 of 17 checks failed: {what} of scene"):
        result.require_passed()


@pytest.mark.parametrize("index", range(8))
def test_every_token_of_an_answer_counts(model: Model, photo, case, index: int) -> None:
    rung = model.ladder.rung(8)
    for ids, regretted in (
        (case.rungs[8].answer_ids, False),
        (another(case.rungs[8].answer_ids, index), True),
        (np.array([10**6]), True),
        (np.array([], np.int64), False),
    ):
        logits = model.first_logits(photo, PROMPT, budget=8)
        regret = largest_regret(model, changed(case, 8, answer_ids=ids), logits, rung)
        assert (regret > 0) == regretted


def test_an_answer_that_turns_to_nan_fails(model: Model, photo, case, monkeypatch) -> None:
    logits = model.first_logits(photo, PROMPT, budget=8)
    bad = np.full_like(logits, np.nan)
    monkeypatch.setattr(BundleRuntime, "step", lambda *_: bad)
    assert np.isnan(largest_regret(model, case, logits, model.ladder.rung(8)))


def test_tied_tokens_may_change_places(model: Model, case: GoldenCase) -> None:
    logits = np.zeros(260, np.float32)
    logits[5], logits[6] = 3.0, 2.999
    golden = changed(case, 8, answer_ids=np.array([6]))
    assert largest_regret(model, golden, logits, model.ladder.rung(8)) < 0.0011


def with_cache(manifest: Manifest, dtype: str, width: int) -> Manifest:
    """The manifest with other rows in every buffer, as decode lists them."""

    def change(stage: Stage) -> Stage:
        past = [
            msgspec.structs.replace(t, dtype=dtype, shape=[*t.shape[:-1], width])
            if t.name.startswith(("past_key", "past_value"))
            else t
            for t in stage.inputs
        ]
        return msgspec.structs.replace(stage, inputs=past)

    return msgspec.structs.replace(manifest, stages=[change(each) for each in manifest.stages])


def test_tolerances_follow_the_buffers(opened: Bundle) -> None:
    plain, head = opened.manifest, opened.manifest.kv.head_dim
    made = [with_cache(plain, *each) for each in [("int8", head), ("int8", head // 2)]]
    made.append(with_cache(plain, "uint8", head // 2))
    assert tolerances_for(plain) == EXACT
    assert [tolerances_for(each) for each in made] == [INT8_CACHE, INT4_CACHE, INT4_CACHE]
    assert EXACT.logits < INT8_CACHE.logits < INT4_CACHE.logits
    assert INT8_CACHE.kept == 0
    for weights in ("int8", "int4"):
        precision = Precision(weights=weights, kv="int8")
        rounded = msgspec.structs.replace(made[0], precision=precision)
        assert INT8_CACHE.logits < tolerances_for(rounded).logits < 1


def test_a_tower_that_reduces_may_keep_others(opened: Bundle) -> None:
    stages = [
        msgspec.structs.replace(s, budget=8) if s.stage == "tower" else s
        for s in opened.manifest.stages
    ]
    manifest = msgspec.structs.replace(opened.manifest, stages=stages)
    assert 0 < tolerances_for(manifest).kept <= 0.05


def test_differences_are_relative_to_the_spread() -> None:
    assert relative(0.5, 2.0) == 0.25
    assert relative(0.0, 0.0) == 0.0
    assert relative(0.1, 0.0) == float("inf")
    assert np.isnan(relative(0.1, float("nan")))


def test_a_chunk_that_goes_wrong_is_named(
    tiny_vlm, tmp_path, photo, case: GoldenCase, monkeypatch
) -> None:
    real = CacheRows.next_positions
    monkeypatch.setattr(
        CacheRows, "next_positions", lambda rows, count: real(rows, count) + (count > 1)
    )
    result = report(tiny_vlm, tmp_path / "b", photo, case)
    assert {check.what for check in result.failures} == {"extension"}


def test_logits_that_are_not_numbers_fail(tiny_vlm, tmp_path, photo, case: GoldenCase) -> None:
    logits = np.full_like(case.rungs[4].logits, np.nan)
    result = report(tiny_vlm, tmp_path / "b", photo, changed(case, 4, logits=logits))
    found = [check.what for check in result.failures]
    assert found == ["logits", "logits cosine", "extension", "answer ids"]


def test_a_bundle_without_golden_cases_says_so(opened: Bundle, model: Model) -> None:
    with pytest.raises(BundleError, match="golden"):
        verify(opened, model)


@pytest.mark.parametrize(
    ("actual", "share"),
    [
        ([0, 2, 5, 9], 0.0),
        ([0, 2, 6, 9], 0.25),
        ([0, 3, 5, 9], 0.25),
        ([2, 5, 9, 12], 0.25),
        ([2, 0, 5, 9], 0.25),
        ([1, 3, 4, 8], 1.0),
        ([0, 2, 5], 0.25),
        ([], 1.0),
    ],
)
def test_displaced_tokens_are_counted_once(actual: list[int], share: float) -> None:
    assert displaced(actual, np.array([0, 2, 5, 9])) == share


def test_measures_of_difference() -> None:
    assert mismatches((1, 2, 3), [1, 5, 3]) == 1
    assert mismatches((1, 2, 3), [1, 2]) == 1
    assert mismatches((), [4, 4]) == 2
    a = np.array([1, 0], np.float32)
    assert cosine(a, np.array([0, 2], np.float32)) == 0
    assert cosine(a, 3 * a) == 1
    assert np.isnan(cosine(a, 0 * a))
