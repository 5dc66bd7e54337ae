"""Engines of one bundle for one target: found in the cache, or built into it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from edgetok.bundle.reader import Bundle
from edgetok.engines.build import Progress, build_engine
from edgetok.engines.cache import EngineCache, Recipe, Wanted, describe
from edgetok.engines.device import Device
from edgetok.engines.plan import EngineJob
from edgetok.engines.toolkit import Target, Toolkit
from edgetok.errors import IncompatibleError

Engine = TypeVar("Engine")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuiltEngine:
    """What became of a job.

    Args:
        bytes: of the engine.
        seconds: that building took; 0 where it was in the cache.
    """

    job: EngineJob
    bytes: int
    seconds: float


class EngineBuilder:
    """Builds engines of a bundle and keeps them.

    Args:
        device: the GPU that engines shall run on; None where they are built for others.
        progress: is told which engine is built and which share of it is done.
    """

    def __init__(
        self,
        bundle: Bundle,
        toolkit: Toolkit,
        target: Target,
        cache: EngineCache,
        device: Device | None = None,
        progress: Progress = lambda doing, share: None,
    ) -> None:
        self._bundle, self._cache = bundle, cache
        self._toolkit, self._target = toolkit, target
        self._device, self._progress = device, progress

    def build(self, job: EngineJob, *, again: bool = False) -> BuiltEngine:
        """Have the engine in the cache; built anew if `again`.

        Raises:
            IncompatibleError: if TensorRT cannot build it.
            ResourceError: if memory ran out, or the cache cannot be written to.
        """
        recipe = self.describe(job)
        with self._cache.locked(recipe):
            data = None if again else self._cache.read(self._cache.path(recipe))
            if data is not None:
                return BuiltEngine(job, len(data), 0.0)
            started = time.monotonic()
            data = self._build(job, recipe)
            return BuiltEngine(job, len(data), time.monotonic() - started)

    def open(self, job: EngineJob, deserialize: Callable[[bytes], Engine | None]) -> Engine:
        """The engine, opened. One that TensorRT refuses is thrown away and built once more.

        Args:
            deserialize: makes an engine of bytes that are as they were published; None if it
                cannot.

        Raises:
            IncompatibleError: if TensorRT refuses what it has just built.
            ResourceError: as `build`.
        """
        recipe = self.describe(job)
        with self._cache.locked(recipe):
            if (found := self._open_cached(recipe, deserialize)) is not None:
                return found
            versions = ", ".join(self._cache.versions(job.bundle)) or "none"
            made = deserialize(self._build(job, recipe))
            if made is None:
                self._cache.remove(self._cache.path(recipe))
                raise self._unusable(recipe, versions)
        return made

    def describe(self, job: EngineJob) -> Recipe:
        """What an engine of this job is made from here."""
        return describe(job, self._toolkit, self._target, self._device)

    def _open_cached(
        self, recipe: Recipe, deserialize: Callable[[bytes], Engine | None]
    ) -> Engine | None:
        runs_on = None
        if self._device is not None and self._target.capabilities:
            runs_on = self._device.capability
        path = self._cache.find(Wanted(recipe, runs_on))
        if path is None:
            return None
        data = self._cache.read(path)
        engine = None if data is None else deserialize(data)
        if engine is None:
            _LOG.warning("%s is damaged or no longer opens, and is made again", path)
            self._cache.remove(path)
        return engine

    def _build(self, job: EngineJob, recipe: Recipe) -> bytes:
        versions = ", ".join(self._cache.versions(job.bundle)) or "none"
        _LOG.info("building %s with %s; cached: %s", job.name, self._toolkit.title, versions)
        timing = self._cache.read_timing(self._toolkit)
        built = build_engine(
            job,
            self._bundle.root,
            self._toolkit,
            self._target,
            timing=timing,
            progress=self._progress,
        )
        self._require_weights()
        self._cache.store(job, recipe, built.data)
        self._cache.store_timing(self._toolkit, built.timing)
        return built.data

    def _require_weights(self) -> None:
        """The parser opened weights by name: are they still those that were hashed?"""
        for path in self._bundle.manifest.files:
            if path.startswith("weights/"):
                self._bundle.path_of(path)

    def _unusable(self, recipe: Recipe, versions: str) -> IncompatibleError:
        where = self._device or "this machine"
        return IncompatibleError(
            f"{self._toolkit.title} on {where} cannot open the engine of {recipe.engine} that it "
            f"has just built for {', '.join(recipe.runs_on) or 'this GPU'} (in the cache were "
            f"engines of: {versions}); see `edgetok doctor`, update the driver, and build again: "
            f"edgetok build {self._bundle.root} --target {self._target}"
        )
