"""ONNX Runtime over real graphs: the cache in place, padding, precisions, refusals."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest

from edgetok import names
from edgetok.bundle.manifest import Stage, Tensor
from edgetok.bundle.reader import Bundle
from edgetok.errors import (
    BundleError,
    IncompatibleError,
    InputError,
    ResourceError,
    UsageError,
)
from edgetok.ladder import Ladder
from edgetok.runtimes.backends import ort as session
from edgetok.runtimes.backends import providers
from edgetok.runtimes.device import machine
from edgetok.runtimes.runtime import requirements
from edgetok.runtimes.runtime.interface import Served, require_interface
from edgetok.runtimes.runtime.protocol import Runtime
from edgetok.runtimes.runtime.runtime import BundleRuntime


def embeds(runtime: BundleRuntime, rows: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(
        (rows, runtime.manifest.text.hidden), np.float32
    )


def test_is_a_runtime(runtime: BundleRuntime) -> None:
    checked: Runtime = runtime
    assert checked.ladder.budgets == (4, 8, 16)
    assert (checked.device, checked.threads) == ("cpu", 1)


@pytest.mark.parametrize("rows", [1, 2, 17, 43])
def test_a_step_equals_a_longer_prefill(runtime: BundleRuntime, rows: int) -> None:
    rung = runtime.ladder.smallest
    prompt = embeds(runtime, rows)
    token = runtime.embed([77]).copy()
    whole = runtime.prefill(rung, np.concatenate([prompt, token])).copy()
    runtime.prefill(rung, prompt)
    stepped = runtime.step(77)
    np.testing.assert_allclose(stepped, whole, atol=2e-5)


def test_steps_read_what_earlier_steps_wrote(runtime: BundleRuntime) -> None:
    rung = runtime.ladder.smallest
    prompt, ids = embeds(runtime, 5), [9, 200, 31, 4]
    runtime.prefill(rung, prompt)
    stepped = [runtime.step(token).copy() for i, token in enumerate(ids)]
    whole = runtime.prefill(rung, np.concatenate([prompt, runtime.embed(ids)]))
    np.testing.assert_allclose(stepped[-1], whole, atol=2e-5)


def test_padding_does_not_change_the_answer(runtime: BundleRuntime) -> None:
    prompt = embeds(runtime, 20)
    logits = [runtime.prefill(rung, prompt).copy() for rung in runtime.ladder]
    steps = []
    for rung in runtime.ladder:
        runtime.prefill(rung, prompt)
        steps.append(runtime.step(50).copy())
    for other in logits[1:]:
        np.testing.assert_allclose(other, logits[0], atol=2e-5)
    for other in steps[1:]:
        np.testing.assert_allclose(other, steps[0], atol=2e-5)


def test_nothing_of_a_longer_prompt_remains(runtime: BundleRuntime) -> None:
    rung = runtime.ladder.largest
    runtime.prefill(rung, embeds(runtime, 6))
    fresh = runtime.step(50).copy()
    runtime.prefill(rung, 100 * embeds(runtime, rung.prefill_tokens, seed=2))
    runtime.prefill(rung, embeds(runtime, 6))
    np.testing.assert_array_equal(runtime.step(50), fresh)


def test_past_and_present_are_the_same_memory(runtime: BundleRuntime) -> None:
    graph = runtime._graphs.decode
    past, present = graph.inputs[names.past_key(1)], graph.outputs[names.present_key(1)]
    assert past.value.data_ptr() == present.value.data_ptr() == past.host.ctypes.data
    runtime.prefill(runtime.ladder.smallest, embeds(runtime, 3))
    filled = np.abs(past.host[0, 0]).sum(-1) > 0
    assert filled[:3].all()


def test_all_rungs_share_one_cache(runtime: BundleRuntime) -> None:
    addresses = {
        runtime._graph("prefill", rung).inputs[names.past_value(0)].value.data_ptr()
        for rung in runtime.ladder
    }
    addresses.add(runtime._graphs.decode.inputs[names.past_value(0)].value.data_ptr())
    assert len(addresses) == 1


def test_an_int8_cache_stays_close(tiny_vlm: ModuleType, runtime: BundleRuntime, tmp_path: Path):
    path = tiny_vlm.write(tmp_path / "int8.bundle", tiny_vlm.Recipe(int8_cache=True))
    small = BundleRuntime(Bundle.open(path), threads=1)
    assert small._graphs.decode.inputs[names.past_key(0)].host.dtype == np.int8
    results = []
    for each in (runtime, small):
        each.prefill(each.ladder.smallest, embeds(runtime, 30))
        results.append(each.step(99).copy())
    difference = np.abs(results[0] - results[1]).max()
    assert 0 < difference < 0.05 * np.abs(results[0]).max()


@pytest.mark.parametrize(("rows", "fits"), [(0, False), (1, True), (44, True), (45, False)])
def test_prefill_takes_as_many_rows_as_the_rung_has(runtime: BundleRuntime, rows: int, fits: bool):
    if fits:
        assert np.isfinite(runtime.prefill(runtime.ladder.smallest, embeds(runtime, rows))).all()
        return
    with pytest.raises(InputError, match=rf"{rows} prompt rows; this rung has room for 1\.\.44"):
        runtime.prefill(runtime.ladder.smallest, embeds(runtime, rows))


def test_a_full_cache_is_never_written_past(runtime: BundleRuntime) -> None:
    (slots,) = set(runtime.manifest.kv.slots)
    runtime.prefill(runtime.ladder.smallest, embeds(runtime, 2))
    for left in range(slots - 2, 0, -1):
        assert runtime.rows_left == left
        assert np.isfinite(runtime.step(5)).all()
    with pytest.raises(InputError, match=f"full with {slots} rows"):
        runtime.step(5)


def test_embedding_too_many_ids_is_refused(runtime: BundleRuntime) -> None:
    with pytest.raises(InputError, match=r"41 text tokens; this rung has room for 1\.\.40"):
        runtime.embed([7] * 41)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_pixels_must_be_finite(runtime: BundleRuntime, bad: float) -> None:
    pixels = np.zeros((1, 3, 8, 8), np.float32)
    pixels[0, 1, 2, 3] = bad
    with pytest.raises(InputError, match="NaN or infinity"):
        runtime.encode(pixels)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((1, 3, 8, 9), "f4"), ((3, 8, 8), "f4"), ((1, 3, 8, 8), "f8")]
)
def test_pixels_must_fit(runtime: BundleRuntime, shape: tuple[int, ...], dtype: str) -> None:
    with pytest.raises(InputError, match="this bundle reads float32"):
        runtime.encode(np.zeros(shape, dtype))


def test_pixels_may_be_strided_and_read_only(runtime: BundleRuntime) -> None:
    plain = np.random.default_rng(0).standard_normal((1, 3, 8, 8), np.float32)
    strided = np.asfortranarray(plain)
    strided.flags.writeable = False
    a, b = runtime.encode(plain), runtime.encode(strided)
    np.testing.assert_array_equal(a.tensors[names.FEATURES], b.tensors[names.FEATURES])


def test_an_encoded_image_survives_the_next(runtime: BundleRuntime) -> None:
    first = runtime.encode(np.ones((1, 3, 8, 8), np.float32))
    kept = first.tensors[names.FEATURES].copy()
    visual = runtime.compress(first, runtime.ladder.smallest)
    rows = visual.rows.copy()
    second = runtime.encode(np.zeros((1, 3, 8, 8), np.float32))
    runtime.compress(second, runtime.ladder.smallest)
    np.testing.assert_array_equal(first.tensors[names.FEATURES], kept)
    np.testing.assert_array_equal(visual.rows, rows)
    assert first.signals == {names.SIGNAL_ELBOW: 12.0}


def test_only_the_rungs_asked_for_are_loaded(opened: Bundle) -> None:
    runtime = BundleRuntime(opened, budgets=[8], threads=1)
    assert runtime.ladder.budgets == (8,)
    with pytest.raises(UsageError, match=r"rung of 4 .* is not loaded; loaded are \(8,\)"):
        runtime.prefill(opened.ladder.smallest, embeds(runtime, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budgets": [5]}, "no rung of 5 visual tokens"),
        ({"budgets": []}, "no rungs to load"),
        ({"threads": 0}, r"threads 0 is outside 1\.\.1024"),
        ({"device": "tpu"}, "device 'tpu' is unknown; use one of cpu, cuda"),
    ],
)
def test_wrong_options_are_refused(opened: Bundle, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BundleRuntime(opened, **options)


def test_a_missing_provider_is_an_error(opened: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(IncompatibleError, match=r"needs CUDAExecutionProvider.*edgetok\[gpu\]"):
        BundleRuntime(opened, device="cuda")


@pytest.mark.parametrize("device", ["cuda", "ort-tensorrt", "ort-rtx"])
def test_sessions_ask_for_the_provider_and_never_for_the_cpu(
    opened: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str
) -> None:
    """What ONNX Runtime is given; a build for CPUs then says that it cannot."""
    import onnxruntime

    asked: list[Any] = []
    provider, real = providers.DEVICES[device], onnxruntime.InferenceSession

    def make(graph: bytes, options: Any, given: list[Any], **rest: Any) -> Any:
        asked.append((options.get_session_config_entry("session.disable_cpu_ep_fallback"), given))
        return real(graph, options, given, **rest)

    monkeypatch.setenv("EDGETOK_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [provider])
    monkeypatch.setattr(onnxruntime, "InferenceSession", make)
    with pytest.raises((IncompatibleError, ResourceError)):
        BundleRuntime(opened, device=device)
    (fallback, given), *_ = asked
    assert fallback == "1" and "CPUExecutionProvider" not in str(given)
    first = given[0] if isinstance(given[0], str) else given[0][0]
    assert first == provider
    if device != "cuda":
        folder = Path(next(v for k, v in given[0][1].items() if "path" in k))
        assert folder.is_relative_to(tmp_path) and folder.stat().st_mode & 0o077 == 0
        assert onnxruntime.__version__ in folder.name and provider in folder.name
        assert given[1:] == ["CUDAExecutionProvider"]


def test_engines_that_cannot_be_kept_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ResourceError, match="EDGETOK_CACHE_DIR"):
        providers.configure(providers.DEVICES["ort-rtx"], tmp_path / "file" / "engines")


def test_a_provider_that_did_not_start_is_an_error() -> None:
    with pytest.raises(IncompatibleError, match="could not start"):
        providers.require_provider_in_use(["CPUExecutionProvider"], "CUDAExecutionProvider")


def pretend_installed(monkeypatch: pytest.MonkeyPatch, *wheels: str) -> None:
    monkeypatch.setattr(providers, "version_of", lambda name: "1" if name in wheels else None)


def test_two_wheels_are_an_error(opened: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch, "onnxruntime", "onnxruntime-gpu")
    command = (
        r"pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'edgetok\[cpu\]' "
        r"\(or edgetok\[gpu\]\)"
    )
    with pytest.raises(IncompatibleError, match=command):
        BundleRuntime(opened)


def test_no_wheel_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(IncompatibleError, match=r"install one of: pip install 'edgetok\[cpu\]'"):
        providers.import_onnxruntime()


def test_a_hollow_wheel_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch, "onnxruntime-gpu")
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
    with pytest.raises(IncompatibleError, match="onnxruntime-gpu is installed but damaged"):
        providers.import_onnxruntime()


def test_too_little_memory_is_refused_before_loading(
    opened: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "available_bytes", lambda: 1000)
    monkeypatch.setattr(session, "make_session", lambda *_: pytest.fail("made a session"))
    with pytest.raises(ResourceError, match="needs at least 0 MiB and 0 MiB are free"):
        BundleRuntime(opened)


def test_the_estimate_counts_weights_and_cache(opened: Bundle) -> None:
    manifest = opened.manifest
    weights = manifest.files["weights/model.bin"].bytes
    cache = 2 * sum(manifest.kv.slots) * manifest.kv.head_dim * 4
    one = requirements.needed_bytes(manifest, Ladder(opened.ladder.rungs[:1]))
    assert weights + cache < one <= requirements.needed_bytes(manifest, opened.ladder)
    assert one < weights + cache + 1_000_000


def served(opened: Bundle, stage: Stage) -> Served:
    before = opened.stage("tower", 4), opened.stage("compress", 4)
    return Served(opened.manifest, stage, opened.ladder.smallest, *before)


def test_a_stage_without_what_a_runtime_needs_is_refused(opened: Bundle) -> None:
    decode = opened.stage("decode", 4)
    inputs = [t for t in decode.inputs if t.name != names.POSITIONS]
    damaged = msgspec.structs.replace(decode, inputs=inputs, outputs=decode.outputs[1:])
    with pytest.raises(BundleError, match="input positions is missing; output logits is missing"):
        require_interface(served(opened, damaged))


def with_tensor(stage: Stage, side: str, name: str, dtype: str, *shape: int) -> Stage:
    tensors = [*getattr(stage, side), Tensor(name=name, dtype=dtype, shape=list(shape))]  # type: ignore[arg-type]
    return msgspec.structs.replace(stage, **{side: tensors})


@pytest.mark.parametrize(("name", "rows"), [(names.VISUAL_START, 1), (names.VISUAL_KEPT, 4)])
def test_prefill_may_ask_where_visual_rows_are(opened: Bundle, name: str, rows: int) -> None:
    asking = with_tensor(opened.stage("prefill", 4), "inputs", name, "int64", rows)
    require_interface(served(opened, asking))


@pytest.mark.parametrize(
    ("stage", "name", "dtype", "shape", "words"),
    [
        ("prefill", "visual_mask", "float32", (4,), "input visual_mask is one that nothing feeds"),
        ("prefill", names.VISUAL_DEEP, "float32", (4, 64), "visual_deep is one that nothing feeds"),
        ("prefill", names.VISUAL_START, "int32", (1,), r"int32 \[1\], not int64 \[1\]"),
        ("prefill", names.VISUAL_KEPT, "int64", (8,), r"int64 \[8\], not int64 \[4\]"),
        ("decode", names.VISUAL_START, "int64", (1,), "visual_start is one that nothing feeds"),
        ("extend", names.VISUAL_KEPT, "int64", (4,), "visual_kept is one that nothing feeds"),
        ("embed", names.TEXT_EMBEDS, "float32", (1,), "text_embeds is one that nothing feeds"),
        ("compress", names.SIZES, "float32", (4,), "input sizes is one that nothing feeds"),
        ("tower", names.TOKEN_ID, "int64", (1, 1), "token_id is one that nothing feeds"),
    ],
)
def test_inputs_that_nothing_feeds_are_refused(
    opened: Bundle, stage: str, name: str, dtype: str, shape: tuple[int, ...], words: str
) -> None:
    asking = with_tensor(opened.stage(stage, 4), "inputs", name, dtype, *shape)
    with pytest.raises(BundleError, match=words):
        require_interface(served(opened, asking))


@pytest.mark.parametrize(
    ("made", "asked", "words"),
    [
        ((4, 3), (4, 3), None),
        ((4, 3), (4, 2), "visual_deep is"),
        ((4, 3), (8, 3), "visual_deep is"),
        ((3, 3), (3, 3), "visual_deep is"),
        ((4, 0), (4, 0), "visual_deep is"),
    ],
)
def test_what_is_added_to_visual_rows_is_what_compress_gives_out(
    opened: Bundle, made: tuple[int, int], asked: tuple[int, int], words: str | None
) -> None:
    """Rows, and layers that something is added behind."""
    hidden, name = opened.manifest.text.hidden, names.VISUAL_DEEP
    size = "float32", made[0], made[1] * hidden
    compress = with_tensor(opened.stage("compress", 4), "outputs", name, *size)
    size = "float32", asked[0], asked[1] * hidden
    prefill = with_tensor(opened.stage("prefill", 4), "inputs", name, *size)
    at = dataclasses.replace(served(opened, prefill), compress=compress)
    if words is None:
        require_interface(at)
        require_interface(dataclasses.replace(at, stage=compress))
        return
    with pytest.raises(BundleError, match=words):
        require_interface(at)
        require_interface(dataclasses.replace(at, stage=compress))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError("no"), ResourceError),
        (RuntimeError("Failed to allocate memory for requested buffer of size 9"), ResourceError),
        (RuntimeError("std::bad_alloc"), ResourceError),
        (RuntimeError("NOT_IMPLEMENTED : Could not find an implementation"), IncompatibleError),
    ],
)
def test_errors_of_onnxruntime_are_translated(error: Exception, expected: type) -> None:
    with pytest.raises(expected, match=r"decode\.onnx"), session.translated_errors("decode.onnx"):
        raise error


def test_weights_changed_while_loading_are_noticed(
    tiny_vlm: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_vlm.write(tmp_path / "swapped.bundle")
    opened = Bundle.open(path)
    real = session.make_session

    def swap(*arguments: object) -> object:
        weights = path / "weights" / "model.bin"
        data = bytearray(weights.read_bytes())
        data[0] ^= 1
        weights.write_bytes(data)
        return real(*arguments)

    monkeypatch.setattr(session, "make_session", swap)
    with pytest.raises(BundleError, match=r"model\.bin"):
        BundleRuntime(opened)
