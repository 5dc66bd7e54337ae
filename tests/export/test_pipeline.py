"""Exports of tiny models: what is published, that it repeats, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgetok
from edgetok.bundle.buffers import cache_bytes
from edgetok.bundle.manifest import Flavour
from edgetok.bundle.reader import Bundle
from edgetok.errors import InputError, UsageError, VerificationError
from edgetok.export.parity.ledger import LIMITS, Ledger
from edgetok.export.pipeline import export_model

FLAVOURS: tuple[Flavour, ...] = ("ort", "portable")
SMALL = {"budgets": "4,full", "prompt_tokens": 64, "new_tokens": 8, "parity_images": 1}


def test_bundle_states_its_ladder_and_its_proof(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert opened.ladder.budgets == (4, 8, 16)
    report = json.loads(opened.read("reports/parity.json"))
    assert report["checks"] and all(check["passed"] for check in report["checks"])
    assert not report["synthetic"]
    kept = [c["worst"] for c in report["checks"] if c["measure"] == "kept"]
    assert kept and min(kept) == 1.0
    pictures = report["inputs"]["pictures"]
    assert (report["inputs"]["texts"], report["inputs"]["conversations"]) == (34, 34)
    assert (pictures["processor"], pictures["compared"]) == ("CLIPImageProcessorPil", 16)
    assert pictures["max_abs"] <= pictures["limit"] == 1e-6


def test_second_rung_adds_less_than_two_percent(
    model_dir: Path, bundle: Path, tmp_path: Path
) -> None:
    """A rung adds graphs, not weights: measured on the weights file and the sum of all graphs."""
    one = tmp_path / "one.bundle"
    export_model(model_dir, one, **{**SMALL, "budgets": "full"})
    weights = {path: _size(path / "weights/model.bin") for path in (one, bundle)}
    # The tiny model's rotary table is as long as its cache; nothing else may differ.
    assert abs(weights[bundle] - weights[one]) <= 3 * 4096
    per_rung = sum(_size(f) for f in (bundle / "onnx/ort").glob("*_8.onnx"))
    assert per_rung < 60_000


def _size(path: Path) -> int:
    return path.stat().st_size


def test_exports_are_byte_identical(model_dir: Path, samples: Path, tmp_path: Path) -> None:
    options = {**SMALL, "weights": "int4", "kv": "int8", "samples": samples}
    first = export_model(model_dir, tmp_path / "a" / ".." / "first.bundle", **options)
    second = export_model(model_dir, tmp_path / "second.bundle", **options)
    assert first.digest == second.digest


@pytest.mark.parametrize(("weights", "kv"), [("fp32", "int8"), ("int8", "fp32"), ("int4", "int8")])
def test_precisions_export_and_answer(
    model_dir: Path, samples: Path, tmp_path: Path, weights: str, kv: str
) -> None:
    out = tmp_path / "quantized.bundle"
    report = export_model(model_dir, out, weights=weights, kv=kv, samples=samples, **SMALL)
    assert report.parity["precision"] == {"weights": weights, "kv": kv}
    model = edgetok.load(out)
    image = np.zeros((20, 20, 3), np.uint8)
    assert len(model.generate(image, "What?", budget=4, max_new_tokens=4).token_ids) >= 1


@pytest.mark.parametrize("weights", ["fp32", "int8"])
def test_portable_graphs_are_proved_and_lie_beside(
    model_dir: Path, tmp_path: Path, weights: str
) -> None:
    out = tmp_path / "portable.bundle"
    report = export_model(model_dir, out, weights=weights, flavour="portable", **SMALL)
    opened = Bundle.open(out)
    spelled = [s for s in opened.manifest.stages if s.flavour == "portable"]
    assert [(s.stage, s.budget) for s in spelled] == [
        ("tower", None),
        ("embed", None),
        ("extend", None),
        ("decode", None),
        ("compress", 4),
        ("prefill", 4),
        ("compress", 16),
        ("prefill", 16),
    ]
    for stage in spelled:
        beside = opened.stage(stage.stage, stage.budget or 4)
        assert (stage.inputs, stage.outputs) == (beside.inputs, beside.outputs)
        assert b"com.microsoft" not in opened.graph(stage)
    proved = {c["stage"] for c in report.parity["checks"] if c["stage"].startswith("portable")}
    assert proved == {
        f"portable {name}"
        for name in ("tower", "compress", "prefill", "extend", "decode", "end to end")
    }


@pytest.mark.parametrize("kv", ["fp32", "int8"])
def test_both_flavours_answer_alike(
    model_dir: Path, samples: Path, tmp_path: Path, kv: str, held_bytes: Any
) -> None:
    out = tmp_path / "portable.bundle"
    export_model(model_dir, out, kv=kv, samples=samples, flavour="portable", **SMALL)
    image = np.random.default_rng(1).integers(0, 255, (20, 20, 3), np.uint8)
    models = {flavour: edgetok.load(out, flavour=flavour) for flavour in FLAVOURS}
    for flavour, model in models.items():
        assert held_bytes(model.runtime) == cache_bytes(model.manifest, flavour)
    for budget in (4, 16):
        answers = [
            model.generate(image, "What?", budget=budget).token_ids for model in models.values()
        ]
        assert len(answers[0]) > 2
        assert answers[0] == answers[1]


def test_a_flavour_that_was_not_exported_is_refused(bundle: Path) -> None:
    with pytest.raises(UsageError, match=r"no portable graphs of tower.*--flavour portable"):
        edgetok.load(bundle, flavour="portable")
    with pytest.raises(UsageError, match="flavour 'trt' is unknown; choose ort, portable"):
        edgetok.load(bundle, flavour="trt")  # type: ignore[arg-type]


def test_breach_of_a_portable_graph_is_seen(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgetok.export.lowering import portable

    right = portable.round_levels

    def wrong(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
        levels, scales = right(weight, bits)
        return levels[::-1].copy(), scales

    monkeypatch.setattr(portable, "round_levels", wrong)
    with pytest.raises(VerificationError, match="portable tower"):
        export_model(model_dir, tmp_path / "x.bundle", weights="int8", flavour="portable", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_unknown_flavours_are_refused(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="flavour 'trt' is unknown; choose ort, portable"):
        export_model(model_dir, tmp_path / "x.bundle", flavour="trt", **SMALL)


def test_int8_cache_needs_samples(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--samples"):
        export_model(model_dir, tmp_path / "x.bundle", kv="int8", **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("budgets", ["0", "17", "-3", "four", "", "4,,8"])
def test_impossible_budgets_are_refused(model_dir: Path, tmp_path: Path, budgets: str) -> None:
    with pytest.raises(UsageError):
        export_model(model_dir, tmp_path / "x.bundle", **{**SMALL, "budgets": budgets})
    assert list(tmp_path.iterdir()) == []


def test_too_many_positions_are_refused(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="trained for 256"):
        export_model(model_dir, tmp_path / "x.bundle", **{**SMALL, "new_tokens": 400})


def test_sample_prompt_beyond_the_rung_is_refused(
    model_dir: Path, samples: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="raise it to"):
        export_model(
            model_dir, tmp_path / "x.bundle", **{**SMALL, "prompt_tokens": 8}, samples=samples
        )


def test_breach_of_parity_publishes_nothing(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong cos table is what a porting mistake looks like: the gate must see it."""
    from edgetok.export.stages import decoder

    right = decoder.rotary_tables
    monkeypatch.setattr(decoder, "rotary_tables", lambda *args: right(*args)[::-1])
    with pytest.raises(VerificationError, match="logits"):
        export_model(model_dir, tmp_path / "x.bundle", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_breach_of_selection_is_seen(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A probe of the wrong row keeps other tokens, while every shape stays right."""
    from edgetok.export.stages import tower as stages

    wrong = stages.probe_cls
    monkeypatch.setattr(stages, "probe_cls", lambda q, k, s: wrong(q, k, s).flip(0))
    with pytest.raises(VerificationError, match="cls_attention"):
        export_model(model_dir, tmp_path / "x.bundle", **SMALL)


def test_model_inside_which_the_bundle_would_lie_is_refused(model_dir: Path) -> None:
    with pytest.raises(UsageError):
        export_model(model_dir, model_dir / "x.bundle", **SMALL)


def test_directory_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json"):
        export_model(tmp_path, tmp_path.parent / f"{tmp_path.name}-x.bundle", **SMALL)


def test_ledger_records_the_worst() -> None:
    ledger = Ledger(LIMITS["fp32"])
    for error in (1e-6, 3e-3, 1e-5):
        ledger.compare("prefill", 4, "logits", np.full(3, 1 + error), np.ones(3))
    checks = {check.measure: check for check in ledger.checks()}
    assert checks["max_abs"].worst == pytest.approx(3e-3)
    assert not checks["max_abs"].passed and checks["cosine"].passed


def test_ledger_refuses_nan() -> None:
    ledger = Ledger(LIMITS["quantized"])
    ledger.compare("prefill", 4, "logits", np.array([np.nan, 1.0]), np.ones(2))
    assert not all(check.passed for check in ledger.checks())


@pytest.mark.parametrize(
    ("tower", "decoder", "method"),
    [("clip", "qwen2", "todre"), ("siglip", "llama", "visionzip"), ("clip", "llama", "random")],
)
def test_other_towers_and_decoders(
    tower: str, decoder: str, method: str, tiny_llava, tmp_path: Path
) -> None:
    """Biases in q, k and v (Qwen2) and a tower without CLS (SigLIP) pass the same gate."""
    model = tiny_llava.write_tiny_llava(tmp_path / "model", tower=tower, decoder=decoder)
    report = export_model(model, tmp_path / "x.bundle", method=method, **SMALL)
    assert all(check["passed"] for check in report.parity["checks"])
