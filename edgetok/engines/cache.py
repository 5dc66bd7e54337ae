"""Engines on disk: in the user's cache, never in a bundle, each beside a sidecar that pins it.

An engine holds machine code, so a stranger's is never loaded: only this cache is looked into, which
nobody else may write to. Entries are published by rename under a lock, so a reader sees a whole
engine or none, and an engine's hash is compared before TensorRT sees a byte of it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from edgetok import limits
from edgetok.engines.device import Device
from edgetok.engines.plan import EngineJob
from edgetok.engines.toolkit import MODULES, Target, Toolkit
from edgetok.errors import ResourceError
from edgetok.user_cache import CACHE_VARIABLE, cache_directory
from edgetok.version import VERSION

Text = Annotated[str, msgspec.Meta(max_length=200)]
Size = Annotated[int, msgspec.Meta(ge=0)]
Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that an engine was made from. Another value of any of it makes another engine.

    Args:
        bundle: digest of the content.
        graph: sha256 of what was parsed.
        runs_on: compute capabilities, or the one GPU that it was built on.
    """

    bundle: Digest
    engine: Text
    graph: Digest
    precision: Text
    module: Text
    module_version: Text
    edgetok: Text
    runs_on: tuple[Text, ...]

    def fits(self, other: Recipe, device: str | None) -> bool:
        """Whether this engine does as one of `other`, on a device if one is named."""
        if device is not None:
            return (
                device in self.runs_on
                and msgspec.structs.replace(self, runs_on=other.runs_on) == other
            )
        return self == other


class Constant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An input of the engine that a rung's own graph held, among the bytes beside the engine.

    Args:
        dtype: as NumPy spells it.
        offset: in bytes.
    """

    name: Text
    dtype: Text
    shape: tuple[Size, ...]
    offset: Size


class Sidecar(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What stands beside an engine's bytes: all that a runtime needs that cannot plan engines.

    Args:
        budgets: of the rungs; None for a graph that serves all of them.
        files: the graph of each rung.
        constants: of each rung.
    """

    recipe: Recipe
    bytes: Annotated[int, msgspec.Meta(ge=1)]
    sha256: Digest
    budgets: tuple[int | None, ...]
    files: tuple[Text, ...]
    constants: tuple[tuple[Constant, ...], ...]
    constants_bytes: Size
    constants_sha256: Digest


@dataclass(frozen=True)
class Wanted:
    """An engine that is looked for.

    Args:
        device: where it shall run, as recipes name it; None for all that the recipe names.
    """

    recipe: Recipe
    device: str | None = None


def describe(job: EngineJob, toolkit: Toolkit, target: Target, device: Device | None) -> Recipe:
    """What an engine of this job is made from; one of `tensorrt` is for this device alone."""
    runs_on = target.capabilities or ((str(device),) if device else ())
    return Recipe(
        bundle=job.bundle,
        engine=job.name,
        graph=job.digest,
        precision=job.precision,
        module=MODULES[toolkit.kind],
        module_version=toolkit.version,
        edgetok=VERSION,
        runs_on=runs_on,
    )


class EngineCache:
    """The engines of one user.

    Args:
        directory: below the user's cache directory when None.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory or cache_directory() / "engines"

    def path(self, recipe: Recipe) -> Path:
        """Where an engine of this recipe lies."""
        key = hashlib.sha256(msgspec.json.encode(recipe)).hexdigest()[:16]
        return self._folder(recipe) / f"{recipe.engine}-{key}.engine"

    def find(self, wanted: Wanted) -> Path | None:
        """The engine that will do, unopened; None if there is none."""
        exact = self.path(wanted.recipe)
        for path in [exact, *sorted(self._folder(wanted.recipe).glob("*.engine"))]:
            sidecar = _read_sidecar(path)
            if sidecar and sidecar.recipe.fits(wanted.recipe, wanted.device):
                return path
        return None

    def read(self, path: Path) -> bytes | None:
        """The bytes of an engine that nobody has touched since it was published; else None."""
        sidecar = _read_sidecar(path)
        data = read_own(path, sidecar.bytes) if sidecar else None
        if sidecar is None or data is None:
            return None
        beside = read_own(_constants_path(path), sidecar.constants_bytes)
        if beside is None:
            return None
        found = (_digest(data), len(data), _digest(beside), len(beside))
        pinned = (sidecar.sha256, sidecar.bytes, sidecar.constants_sha256, sidecar.constants_bytes)
        return data if found == pinned else None

    def store(self, job: EngineJob, recipe: Recipe, data: bytes) -> Path:
        """Publish an engine.

        Raises:
            ResourceError: if the cache cannot be written to.
        """
        path = self.path(recipe)
        constants, values = _lay_out(job)
        sidecar = Sidecar(
            recipe=recipe,
            bytes=len(data),
            sha256=_digest(data),
            budgets=tuple(stage.budget for stage in job.stages),
            files=tuple(stage.file for stage in job.stages),
            constants=constants,
            constants_bytes=len(values),
            constants_sha256=_digest(values),
        )
        with _resource_errors(path):
            self._make_folder(recipe)
            # A sidecar without its engine is no entry, nor is one beside another's bytes.
            publish(path, data)
            publish(_constants_path(path), values)
            publish(_sidecar_path(path), msgspec.json.format(msgspec.json.encode(sidecar)))
        return path

    def versions(self, bundle: str) -> list[str]:
        """Of TensorRT, of which a bundle has engines here."""
        paths = sorted((self.directory / bundle[:16]).glob("*.engine"))
        found = [sidecar.recipe for path in paths if (sidecar := _read_sidecar(path))]
        return sorted({f"{recipe.module} {recipe.module_version}" for recipe in found})

    def remove(self, path: Path) -> None:
        """Forget an entry."""
        for each in (_sidecar_path(path), _constants_path(path), path):
            with suppress(OSError):
                each.unlink()

    @contextmanager
    def locked(self, recipe: Recipe) -> Iterator[None]:
        """One process at a time builds an engine; others wait for it.

        Raises:
            ResourceError: if the cache cannot be written to.
        """
        with _resource_errors(self.directory):
            self._make_folder(recipe)
            path = self.path(recipe).with_suffix(".lock")
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # the file stays: unlinking it would race
            yield
        finally:
            os.close(descriptor)

    def timing_path(self, toolkit: Toolkit) -> Path:
        """Where timings of kernels are kept between builds."""
        return self.directory / f"{MODULES[toolkit.kind]}-{toolkit.version}.timing"

    def kernels_path(self, toolkit: Toolkit, device: Device) -> Path:
        """Where TensorRT for RTX keeps what it compiled for a GPU."""
        key = hashlib.sha256(f"{toolkit.title}\n{device}".encode()).hexdigest()[:16]
        return self.directory / f"{MODULES[toolkit.kind]}-{key}.kernels"

    def read_timing(self, toolkit: Toolkit) -> bytes:
        return read_own(self.timing_path(toolkit), limits.TIMING_BYTES) or b""

    def store_timing(self, toolkit: Toolkit, data: bytes) -> None:
        """Keep what was timed, if anything was."""
        if data:
            with _resource_errors(self.directory):
                self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
                publish(self.timing_path(toolkit), data)

    def _folder(self, recipe: Recipe) -> Path:
        return self.directory / recipe.bundle[:16]

    def _make_folder(self, recipe: Recipe) -> None:
        self._folder(recipe).mkdir(parents=True, exist_ok=True, mode=0o700)


def _sidecar_path(engine: Path) -> Path:
    return engine.with_suffix(".json")


def _constants_path(engine: Path) -> Path:
    return engine.with_suffix(".constants")


def _lay_out(job: EngineJob) -> tuple[tuple[tuple[Constant, ...], ...], bytes]:
    """The constants of each rung one after another, and where they are."""
    values, rungs = bytearray(), []
    for arrays in job.graph.constants:
        rung = []
        for name, array in arrays.items():
            shape, offset = tuple(array.shape), len(values)
            rung.append(Constant(name=name, dtype=array.dtype.name, shape=shape, offset=offset))
            values += np.ascontiguousarray(array).tobytes()
        rungs.append(tuple(rung))
    return tuple(rungs), bytes(values)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read_sidecar(engine: Path) -> Sidecar | None:
    data = read_own(_sidecar_path(engine), limits.MANIFEST_BYTES)
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=Sidecar)
    except (ValueError, RecursionError):
        return None


def read_own(path: Path, limit: int) -> bytes | None:
    """A regular file of this user that no other may write to; None if there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        strange = status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if strange or not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            return None
        with suppress(OSError):
            return file.read(limit + 1)
    return None


def publish(path: Path, data: bytes) -> None:
    """Write beside `path`, then rename, readable by this user alone."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def _resource_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"{path}: the engine cache cannot be written to: {error.strerror or error}; free some "
            f"space, or set {CACHE_VARIABLE} to a directory that can be written"
        ) from error
