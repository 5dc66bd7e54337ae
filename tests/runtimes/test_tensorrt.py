"""The runtime of engines, over a `tensorrt` that ONNX Runtime is behind and that can fail."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import edgetok
from edgetok.bundle.reader import Bundle
from edgetok.cli.app import execute
from edgetok.engines.cache import EngineCache
from edgetok.engines.device import checked, find_device, import_cuda
from edgetok.errors import IncompatibleError, ResourceError, UsageError
from edgetok.runtimes.runtime.runtime import BundleRuntime


class Fake:
    """The modules in place of the real ones, and an engine cache of its own."""

    def __init__(self, module: ModuleType, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self._module, self._patch = module, patch
        patch.setenv("EDGETOK_CACHE_DIR", str(folder))
        self.restart()

    def restart(self) -> None:
        """A new process, as it were: nothing but the cache is left."""
        module, cuda, self.faults, self.counts = self._module.make()
        self.memory = cuda.memory
        for name in ("tensorrt", "tensorrt_rtx"):
            self._patch.setitem(sys.modules, name, module)
        self._patch.setitem(sys.modules, "cuda.bindings.runtime", cuda)


@pytest.fixture
def fake(load_helper: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    return Fake(load_helper("runtimes/fake_tensorrt"), monkeypatch, tmp_path / "cache")


def open_engines(bundle: Path, **options: Any) -> BundleRuntime:
    return BundleRuntime(
        *(Bundle.open(bundle),),
        **{"device": "tensorrt", "flavour": "portable", "precision": "fp32"} | options,
    )


PHOTO = np.random.default_rng(5).integers(0, 256, (20, 24, 3), np.uint8)


def answer(model: Any, budget: int) -> list[int]:
    return list(model.generate(PHOTO, "What is it?", budget=budget, max_new_tokens=6).token_ids)


def test_engines_answer_as_sessions_do(fake: Fake, portable_bundle: Path) -> None:
    engines = edgetok.load(portable_bundle, "tensorrt", precision="fp32")
    sessions = edgetok.load(portable_bundle, flavour="portable", threads=1)
    assert engines.runtime.flavour == "portable" and engines.runtime.device == "tensorrt"
    for budget in (8, 4, 16, 4):
        assert answer(engines, budget) == answer(sessions, budget)
    assert len(answer(engines, 16)) > 2
    assert sorted(fake.counts.profiles) == [0, 1, 2]  # a context of prefill per rung


def test_steps_are_recorded_once_and_allocate_nothing(fake: Fake, portable_bundle: Path) -> None:
    runtime = open_engines(portable_bundle)
    bucket, rows = runtime.ladder.smallest, np.zeros((5, runtime.manifest.text.hidden), np.float32)
    runtime.prefill(bucket, rows)
    allocated, contexts = fake.counts.allocated, fake.counts.contexts
    logits = [runtime.step(7).copy() for _ in range(6)]
    assert (fake.counts.recorded, fake.counts.launched) == (1, 5)
    assert (fake.counts.allocated, fake.counts.contexts) == (allocated, contexts)
    runtime.prefill(bucket, rows)
    plain = BundleRuntime(Bundle.open(portable_bundle), flavour="portable", threads=1)
    plain.prefill(bucket, rows)
    want = [plain.step(7).copy() for _ in range(6)]
    np.testing.assert_allclose(logits, want, atol=1e-5)
    runtime.close()
    assert not fake.memory


def test_rows_take_turns_where_an_engine_cannot_write_in_place(
    fake: Fake, portable_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in graphs of opset 20, whose ScatterND no engine does in place."""
    from edgetok.engines import plan
    from edgetok.export.lowering.opset20 import lower

    load = plan._Planner._load

    def lowered(self: Any, stage: Any) -> Any:
        return ir.to_proto(lower(ir.from_proto(load(self, stage))))

    monkeypatch.setattr(plan._Planner, "_load", lowered)
    engines = edgetok.load(portable_bundle, "tensorrt", precision="fp32")
    sessions = edgetok.load(portable_bundle, flavour="portable", threads=1)
    for budget in (4, 16):
        assert answer(engines, budget) == answer(sessions, budget)
    assert fake.counts.recorded == 2  # one for each place that rows may lie in


def test_half_precision_holds_half_the_cache(fake: Fake, portable_bundle: Path) -> None:
    runtime = open_engines(portable_bundle, precision="fp16", budgets=[4])
    held = runtime._graphs.decode.inputs["past_key_0"].host
    assert held.dtype == np.float16
    rows = np.random.default_rng(3).normal(size=(5, runtime.manifest.text.hidden))
    got = runtime.prefill(runtime.ladder.smallest, rows.astype(np.float32))
    plain = BundleRuntime(Bundle.open(portable_bundle), flavour="portable", threads=1)
    want = plain.prefill(plain.ladder.smallest, rows.astype(np.float32))
    np.testing.assert_allclose(got, want, atol=0.03)
    np.testing.assert_allclose(runtime.step(9), plain.step(9), atol=0.03)


def test_engines_come_from_the_cache_the_second_time(fake: Fake, portable_bundle: Path) -> None:
    open_engines(portable_bundle)
    built = fake.counts.built
    assert built > 5
    fake.restart()
    open_engines(portable_bundle)
    assert fake.counts.built == 0


@pytest.mark.parametrize("raises", [False, True])
def test_engines_of_another_version_are_built_again(
    fake: Fake, portable_bundle: Path, raises: bool
) -> None:
    open_engines(portable_bundle)
    built = fake.counts.built
    fake.restart()
    fake.faults.version, fake.faults.raises = "10.9.0", raises
    open_engines(portable_bundle)
    assert fake.counts.built == built


@pytest.mark.parametrize("raises", [False, True])
def test_an_engine_that_no_longer_opens_is_built_once_more(
    fake: Fake, portable_bundle: Path, raises: bool
) -> None:
    """The driver changed, say: bytes that were opened yesterday are refused today."""
    open_engines(portable_bundle)
    fake.restart()
    refused: list[bytes] = []

    def refuses(data: bytes) -> bool:
        first = not refused
        refused.append(data)
        return first

    fake.faults.refuses, fake.faults.raises = refuses, raises
    open_engines(portable_bundle)
    assert fake.counts.built == 1


def test_one_that_never_opens_ends_in_an_error(fake: Fake, portable_bundle: Path) -> None:
    fake.faults.refuses = lambda data: True
    with pytest.raises(
        IncompatibleError, match=r"tensorrt 10\.3\.0 on Fake GPU, sm87.*build again"
    ):
        open_engines(portable_bundle)
    assert fake.counts.built == 1
    assert not list(EngineCache().directory.rglob("*.engine"))


def test_another_gpu_has_engines_of_its_own(fake: Fake, portable_bundle: Path) -> None:
    open_engines(portable_bundle)
    built = fake.counts.built
    fake.restart()
    fake.faults.capability = (11, 0)
    open_engines(portable_bundle)
    assert fake.counts.built == built


def test_memory_that_runs_out_at_any_allocation(fake: Fake, portable_bundle: Path) -> None:
    open_engines(portable_bundle)
    whole = fake.counts.allocated
    assert whole > 20
    for nth in range(1, whole + 1, 7):
        fake.restart()
        fake.faults.allocation = nth
        with pytest.raises(ResourceError, match="GPU's memory ran out"):
            open_engines(portable_bundle)
    fake.restart()
    fake.faults.no_context = True
    with pytest.raises(ResourceError, match="execution context"):
        open_engines(portable_bundle)


@pytest.mark.parametrize("before", [0, 1, 2, 4])
def test_a_call_that_fails_is_an_error(fake: Fake, portable_bundle: Path, before: int) -> None:
    """In prefill, in a first step, and while a step is recorded or launched."""
    runtime = open_engines(portable_bundle, budgets=[4])
    rows = np.zeros((5, runtime.manifest.text.hidden), np.float32)
    fake.faults.fails = before
    with pytest.raises(IncompatibleError, match=r"decode|prefill|graph"):
        for _ in range(before + 2):
            runtime.prefill(runtime.ladder.smallest, rows)
            runtime.step(7)
    assert runtime.count_held([1, 2, 3]) == 0  # nothing that failed is gone on behind


def test_what_is_missing_is_named(
    fake: Fake, portable_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.faults.devices = 0
    with pytest.raises(IncompatibleError, match="choose the GPU"):
        open_engines(portable_bundle)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(IncompatibleError, match="pip install cuda-bindings"):
        open_engines(portable_bundle)
    with pytest.raises(UsageError, match="flavour 'ort2' is unknown"):
        open_engines(portable_bundle, flavour="ort2")


def test_rtx_takes_engines_that_were_built_elsewhere(fake: Fake, portable_bundle: Path) -> None:
    """Built for two GPUs by the command; kernels that are compiled here are kept."""
    fake.faults.version = "1.7.1"
    build = ["build", str(portable_bundle), "--target", "rtx:sm86,sm120", "--precision", "fp32"]
    assert execute(build) == 0
    built = fake.counts.built
    for kept in (0, 1):
        fake.restart()
        fake.faults.version, fake.faults.capability = "1.7.1", (8, 6)
        model = edgetok.load(portable_bundle, "rtx", precision="fp32")
        sessions = edgetok.load(portable_bundle, flavour="portable", threads=1)
        for budget in (16, 4):
            assert answer(model, budget) == answer(sessions, budget)
        assert fake.counts.built == 0 and built > 5
        assert fake.counts.profiles == []  # one range of shapes serves all rungs
        assert fake.counts.kernels_read == kept
        model.close()


def test_a_model_that_is_closed_keeps_kernels_and_holds_no_memory(
    fake: Fake, portable_bundle: Path
) -> None:
    fake.faults.version, fake.faults.capability = "1.7.1", (8, 6)
    with edgetok.load(portable_bundle, "rtx", precision="fp32") as model:
        answer(model, 4)
        assert fake.memory
    assert not fake.memory
    with pytest.raises(UsageError, match="this model is closed; load the bundle again"):
        answer(model, 4)
    edgetok.load(portable_bundle, "rtx", precision="fp32").close()
    assert fake.counts.kernels_read == 1


def test_kernels_are_kept_where_nobody_closes_a_model(fake: Fake, portable_bundle: Path) -> None:
    fake.faults.version, fake.faults.capability = "1.7.1", (8, 6)
    for kept in (0, 1):
        model = edgetok.load(portable_bundle, "rtx", precision="fp32")
        assert fake.counts.kernels_read == kept
        del model
        gc.collect()


def test_a_gpu_that_rtx_does_not_serve(fake: Fake, portable_bundle: Path) -> None:
    fake.faults.version = "1.7.1"
    with pytest.raises(IncompatibleError, match="does not serve Fake GPU, sm87"):
        open_engines(portable_bundle, device="rtx")


def test_without_a_driver_cuda_itself_says_so() -> None:
    """The real bindings: their functions return a status first."""
    pytest.importorskip("cuda.bindings.runtime", reason="pip install cuda-bindings")
    cuda = import_cuda()
    status, count = cuda.cudaGetDeviceCount()
    if int(status) == 0 and count:
        assert find_device(cuda).capability.startswith("sm")
    else:
        with pytest.raises(IncompatibleError, match="edgetok doctor"):
            checked(cuda.cudaGetDeviceCount(), "count GPUs")
