"""Building one engine, with TensorRT or TensorRT for RTX: the same calls for both."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetok.engines.plan import EngineJob
from edgetok.engines.toolkit import Target, Toolkit
from edgetok.errors import IncompatibleError, ResourceError

Progress = Callable[[str, float], None]
_OUT_OF_MEMORY = ("out of memory", "outofmemory", "std::bad_alloc", "could not allocate")
_HINTS = {
    "FP32 GEMM": "; sm75 multiplies in fp16 only (--precision fp16)",
    "datatypes: int4": "; sm75 takes no weights of 4 bits; export with --weights int8",
}
_WAIT_SECONDS = 0.1  # between looks at whether the build is done: how late Ctrl-C may be noticed


@dataclass(frozen=True)
class Built:
    """An engine's bytes, and what timing learned for the next one; nothing where it times none."""

    data: bytes
    timing: bytes


def build_engine(
    job: EngineJob,
    root: Path,
    toolkit: Toolkit,
    target: Target,
    *,
    timing: bytes = b"",
    progress: Progress = lambda doing, share: None,
) -> Built:
    """Parse a graph and build it; an exception such as Ctrl-C ends the work.

    Args:
        root: the bundle's, from which weights are read.
        timing: of an earlier build, where the target times kernels.
        progress: is told what is done and which share of it.

    Raises:
        IncompatibleError: if this TensorRT cannot build the graph.
        ResourceError: if memory ran out.
    """
    run = _Run(job, root, toolkit, target, timing)
    monitor = _make_monitor(toolkit.module, job.name, progress)
    outcome: list[Built | BaseException] = []

    def work() -> None:
        if monitor.cancelled:
            return
        try:
            outcome.append(run.build(monitor))
        except BaseException as error:
            outcome.append(error)

    # In a thread of its own: an exception of a signal must not be raised inside a C++ callback.
    thread = threading.Thread(target=work, name=f"engine of {job.name}")
    try:
        thread.start()  # a signal may come here already
        while thread.is_alive():
            thread.join(_WAIT_SECONDS)
            monitor.tell()
    except BaseException:
        monitor.cancelled = True
        if thread.ident is not None:
            thread.join()
        raise
    (made,) = outcome
    if isinstance(made, BaseException):
        raise made
    return made


class _Run:
    """One build, from the parser to the bytes."""

    def __init__(
        self, job: EngineJob, root: Path, toolkit: Toolkit, target: Target, timing: bytes
    ) -> None:
        self._job, self._root, self._toolkit = job, root, toolkit
        self._target, self._timing = target, timing
        self._module = toolkit.module
        self._logger = make_logger(toolkit.module)

    def build(self, monitor: Any) -> Built:
        builder = self._module.Builder(self._logger)
        network = builder.create_network(_network_flags(self._toolkit))
        parser = self._module.OnnxParser(network, self._logger)  # must outlive the build
        self._parse(parser)
        config = builder.create_builder_config()
        config.progress_monitor = monitor
        self._add_profiles(builder, config)
        self._set_target(config)
        cache = self._set_timing(config)
        data = builder.build_serialized_network(network, config)
        if data is None:
            raise self._refused(self._logger.last())
        return Built(bytes(data), b"" if cache is None else bytes(cache.serialize()))

    def _parse(self, parser: Any) -> None:
        # The path is that of a file that need not exist: weights are found from its folder.
        if not parser.parse(self._job.data, str(self._root / f"{self._job.name}.onnx")):
            errors = [parser.get_error(n).desc() for n in range(parser.num_errors)]
            raise self._refused(errors[0] if errors else self._logger.last())

    def _add_profiles(self, builder: Any, config: Any) -> None:
        if len(self._job.stages) == 1:
            return  # all its shapes are constants
        ranges = (
            self._job.profiles if self._target.has_profile_per_rung else [self._job.range_profile]
        )
        for least, likeliest, largest in ranges:
            profile = builder.create_optimization_profile()
            for name in least:
                profile.set_shape(name, least[name], likeliest[name], largest[name])
            if config.add_optimization_profile(profile) < 0:
                raise self._refused(self._logger.last())

    def _set_target(self, config: Any) -> None:
        names = self._target.capabilities
        if not names:
            return
        config.num_compute_capabilities = len(names)
        for index, name in enumerate(names):
            capability = getattr(self._module.ComputeCapability, name.upper(), None)
            if capability is None or not config.set_compute_capability(capability, index):
                raise IncompatibleError(
                    f"{self._toolkit.title} cannot build for {name}; name other GPUs "
                    "(--target rtx:sm86), or upgrade it"
                )

    def _set_timing(self, config: Any) -> Any:
        if self._target.kind != "tensorrt":
            return None  # it times nothing, and its timing cache would ask for a GPU
        cache = config.create_timing_cache(self._timing)
        if cache is None and self._timing:  # of another version or GPU: begin afresh
            cache = config.create_timing_cache(b"")
        if cache is not None:
            config.set_timing_cache(cache, False)
        return cache

    def _refused(self, reason: str) -> Exception:
        brief = " ".join(reason.split())[:300] or "it gave no reason"
        what = f"{self._toolkit.title} could not build {self._job.name} for {self._target}"
        if any(sign in reason.lower() for sign in _OUT_OF_MEMORY):
            return ResourceError(
                f"{what}: memory ran out ({brief}); about {self._job.peak_bytes >> 20} MiB were "
                "predicted; end other programs, or build elsewhere"
            )
        hint = next((hint for sign, hint in _HINTS.items() if sign in reason), "")
        return IncompatibleError(f"{what}: {brief}{hint}")


def _network_flags(toolkit: Toolkit) -> int:
    """Strongly typed, where that is not all there is: precision lies in the graph."""
    flags = toolkit.module.NetworkDefinitionCreationFlag
    typed = getattr(flags, "STRONGLY_TYPED", None)
    return 0 if typed is None or toolkit.kind == "rtx" else 1 << int(typed)


def make_logger(module: Any) -> Any:
    """A logger that keeps the last errors instead of printing them."""

    class Logger(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= module.ILogger.ERROR:
                self._errors = [*self._errors[-3:], message]

        def last(self) -> str:
            return "; ".join(self._errors[-1:])

    return Logger()


def _make_monitor(module: Any, name: str, progress: Progress) -> Any:
    """Steps of the outermost phase as a share, and a way to end the build between two steps."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.cancelled = False
            self._steps: dict[str, int] = {}
            self._outer, self._share = "", 0.0

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._outer = self._outer or phase
            self._steps[phase] = max(1, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            if phase == self._outer:
                self._share = (step + 1) / self._steps[phase]
            return not self.cancelled

        def phase_finish(self, phase: str) -> None:
            return None

        def tell(self) -> None:
            """Called by the waiting thread, which alone may raise."""
            progress(name, min(1.0, self._share))

    return Monitor()
