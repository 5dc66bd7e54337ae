"""The engine cache: what is trusted, what is thrown away, and two builders at once."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from edgetok.bundle.reader import Bundle
from edgetok.engines import builder as foundry_module
from edgetok.engines.build import Built
from edgetok.engines.builder import EngineBuilder
from edgetok.engines.cache import EngineCache, Recipe, Sidecar, Wanted
from edgetok.engines.device import Device
from edgetok.engines.plan import EngineJob, plan_engines
from edgetok.engines.toolkit import Target, Toolkit, find_toolkit
from edgetok.errors import IncompatibleError, ResourceError

ENGINE = bytes(range(256)) * 64
RTX = Target("rtx", ("sm75", "sm86"))


@pytest.fixture(scope="module")
def opened(portable_bundle: Path) -> Bundle:
    return Bundle.open(portable_bundle)


@pytest.fixture(scope="module")
def job(opened: Bundle) -> EngineJob:
    return plan_engines(opened, flavour="portable")[0]


class BuilderParts:
    """A builder whose builder gives the same bytes each time and counts."""

    def __init__(
        self, opened: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch, **other: Any
    ) -> None:
        self.built = 0
        self.cache = EngineCache(folder)
        toolkit = Toolkit("rtx", SimpleNamespace(), other.get("version", "1.7.1"))
        device = other.get("device")
        target = other.get("target", RTX)
        self.builder = EngineBuilder(opened, toolkit, target, self.cache, device)
        monkeypatch.setattr(foundry_module, "build_engine", self._build)

    def _build(self, *_: Any, **__: Any) -> Built:
        self.built += 1
        return Built(ENGINE, b"")


@pytest.fixture
def workshop(opened: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BuilderParts:
    return BuilderParts(opened, tmp_path, monkeypatch)


def entry(workshop: BuilderParts, job: EngineJob) -> Path:
    return workshop.cache.path(workshop.builder.describe(job))


def test_an_engine_is_built_once(workshop: BuilderParts, job: EngineJob) -> None:
    assert workshop.builder.open(job, bytes) == ENGINE
    assert workshop.builder.open(job, bytes) == ENGINE
    assert workshop.builder.build(job).seconds == 0
    assert workshop.built == 1
    workshop.builder.build(job, again=True)
    assert workshop.built == 2


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


SPOIL = {
    "a bit is flipped": flip,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "grown": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
    "writable by others": lambda path: path.chmod(0o666),
    "no constants": lambda path: path.with_suffix(".constants").unlink(),
    "other constants": lambda path: path.with_suffix(".constants").write_bytes(b"x"),
    "no sidecar": lambda path: path.with_suffix(".json").unlink(),
    "a sidecar that is no JSON": lambda path: path.with_suffix(".json").write_bytes(b"{"),
    "a sidecar of depths": lambda path: path.with_suffix(".json").write_bytes(b"[" * 100_000),
}


@pytest.mark.parametrize("spoil", SPOIL)
def test_a_spoiled_engine_never_reaches_tensorrt(
    workshop: BuilderParts, job: EngineJob, spoil: str
) -> None:
    workshop.builder.build(job)
    SPOIL[spoil](entry(workshop, job))
    seen: list[bytes] = []
    workshop.builder.open(job, lambda data: seen.append(data) or data)
    assert seen == [ENGINE] and workshop.built == 2


def test_a_sidecar_has_what_a_runtime_needs_that_plans_no_engines(
    opened: Bundle, workshop: BuilderParts
) -> None:
    jobs = {job.name: job for job in plan_engines(opened, flavour="portable")}
    prefill = jobs["prefill"]
    workshop.builder.build(prefill)
    path = entry(workshop, prefill)
    told = msgspec.json.decode(path.with_suffix(".json").read_bytes(), type=Sidecar)
    values = path.with_suffix(".constants").read_bytes()
    assert told.files == tuple(stage.file for stage in prefill.stages)
    assert told.budgets == (4, 8, 16)
    for constants, arrays in zip(told.constants, prefill.graph.constants, strict=True):
        assert [constant.name for constant in constants] == list(arrays)
        for constant in constants:
            array = arrays[constant.name]
            held = values[constant.offset : constant.offset + array.nbytes]
            np.testing.assert_array_equal(
                np.frombuffer(held, constant.dtype).reshape(constant.shape), array
            )
    assert all(told.constants)


def test_a_link_to_a_strangers_engine_is_not_followed(
    workshop: BuilderParts, job: EngineJob, tmp_path: Path
) -> None:
    workshop.builder.build(job)
    path = entry(workshop, job)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    workshop.builder.open(job, bytes)
    assert workshop.built == 2 and not path.is_symlink()


def test_a_named_pipe_does_not_hang(workshop: BuilderParts, job: EngineJob) -> None:
    workshop.builder.build(job)
    path = entry(workshop, job)
    path.unlink()
    os.mkfifo(path, 0o600)
    workshop.builder.open(job, bytes)
    assert workshop.built == 2


def test_an_engine_that_does_not_open_is_built_once_more(
    workshop: BuilderParts, job: EngineJob
) -> None:
    workshop.builder.build(job)
    answers = iter([None, "opened"])
    assert workshop.builder.open(job, lambda _: next(answers)) == "opened"
    assert workshop.built == 2


def test_one_that_never_opens_is_an_error_with_both_versions(
    opened: Bundle, job: EngineJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    BuilderParts(opened, tmp_path, monkeypatch, version="1.6.0").builder.build(job)
    newer = BuilderParts(opened, tmp_path, monkeypatch, version="1.7.1")
    with pytest.raises(IncompatibleError) as caught:
        newer.builder.open(job, lambda _: None)
    for part in ("1.6.0", "1.7.1", "edgetok build", str(opened.root), "--target rtx:sm75,sm86"):
        assert part in str(caught.value)
    assert newer.built == 1
    assert newer.cache.read(entry(newer, job)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"bundle": "0" * 64},
        {"graph": "0" * 64},
        {"engine": "other"},
        {"precision": "bf16"},
        {"module": "tensorrt"},
        {"module_version": "1.7.2"},
        {"edgetok": "9.9"},
        {"runs_on": ("sm75",)},
    ],
)
def test_whatever_changes_makes_another_engine(
    workshop: BuilderParts, job: EngineJob, change: dict[str, Any]
) -> None:
    workshop.builder.build(job)
    recipe = workshop.builder.describe(job)
    other: Recipe = msgspec.structs.replace(recipe, **change)
    assert workshop.cache.find(Wanted(recipe)) is not None
    assert workshop.cache.find(Wanted(other)) is None
    assert workshop.cache.path(other) != workshop.cache.path(recipe)


def test_a_device_takes_an_engine_that_was_built_for_it_among_others(
    opened: Bundle, job: EngineJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    BuilderParts(opened, tmp_path, monkeypatch).builder.build(job)
    for capability, built in (("sm86", 0), ("sm89", 1)):
        device, target = Device("GPU", capability, "13.0"), Target("rtx", (capability,))
        there = BuilderParts(opened, tmp_path, monkeypatch, device=device, target=target)
        assert there.builder.open(job, bytes) == ENGINE
        assert there.built == built


def test_engines_of_tensorrt_are_for_one_gpu_and_driver(
    opened: Bundle, job: EngineJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_gpu = {}
    for driver in ("12.6", "13.0"):
        device = Device("Orin", "sm87", driver)
        here = BuilderParts(opened, tmp_path, monkeypatch, device=device, target=Target("tensorrt"))
        here.builder.open(job, bytes)
        of_gpu[driver] = (here.built, entry(here, job))
    assert [built for built, _ in of_gpu.values()] == [1, 1]
    assert len({path for _, path in of_gpu.values()}) == 2


def test_a_cache_that_cannot_be_written_is_named(
    opened: Bundle, job: EngineJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ResourceError, match="EDGETOK_CACHE_DIR"):
        BuilderParts(opened, tmp_path / "file", monkeypatch).builder.build(job)


@pytest.mark.parametrize("nth", range(1, 7))
def test_a_full_disk_leaves_no_half_engine(
    workshop: BuilderParts, job: EngineJob, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """The n-th call that makes bytes durable or gives them their name fails."""
    calls = [0]

    def failing(real: Any) -> Any:
        def call(*given: Any) -> Any:
            calls[0] += 1
            if calls[0] == nth:
                raise OSError(28, "No space left on device")
            return real(*given)

        return call

    monkeypatch.setattr(os, "fsync", failing(os.fsync))
    monkeypatch.setattr(Path, "replace", failing(Path.replace))
    with pytest.raises(ResourceError, match="No space left"):
        workshop.builder.build(job)
    monkeypatch.undo()
    path = entry(workshop, job)
    assert workshop.cache.read(path) is None
    assert not list(path.parent.glob(".*"))


def _build_many(bundle: Path, folder: Path, rounds: int, found: Any) -> None:
    opened, patch = Bundle.open(bundle), pytest.MonkeyPatch()
    job = plan_engines(opened, flavour="portable")[0]
    for number in range(rounds):
        here = BuilderParts(opened, folder / str(number), patch)
        whole = here.builder.open(job, bytes) == ENGINE
        found.put((number, here.built, whole))


def test_processes_that_want_the_same_engine_build_it_once(
    portable_bundle: Path, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("fork")
    found, rounds = context.Queue(), 20
    given = (portable_bundle, tmp_path, rounds, found)
    processes = [context.Process(target=_build_many, args=given) for _ in range(3)]
    for process in processes:
        process.start()
    rows = np.array([found.get(timeout=60) for _ in range(3 * rounds)])
    for process in processes:
        process.join(60)
    assert rows[:, 2].all()
    assert [rows[rows[:, 0] == number, 1].sum() for number in range(rounds)] == [1] * rounds


def test_what_is_installed_is_named_when_it_is_missing_or_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    with pytest.raises(IncompatibleError, match="system-site-packages"):
        find_toolkit("tensorrt")
    for version in ("8.6.1", "10.2", "nonsense", ""):
        module = SimpleNamespace(__version__=version)
        monkeypatch.setitem(__import__("sys").modules, "tensorrt", module)
        with pytest.raises(IncompatibleError, match=r"needs 10\.3"):
            find_toolkit("tensorrt")
