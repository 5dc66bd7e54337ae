"""A bundle's graphs as engines of TensorRT, over one set of buffers in the GPU's memory.

Everything is allocated at load: an engine and its contexts, one per rung, and the buffers, of which
tensors of one name are one in every graph, so that the tower writes where `compress` reads and no
step allocates. Where an engine can write a cache's rows into the memory that it reads, past and
present are the same; elsewhere there are two, and each call reads what the last one wrote.
"""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetok import limits
from edgetok.bundle.manifest import Flavour, Stage, Tensor
from edgetok.bundle.reader import Bundle
from edgetok.engines.build import make_logger
from edgetok.engines.cache import EngineCache, publish, read_own
from edgetok.engines.device import Device, import_cuda
from edgetok.engines.foundry import Foundry
from edgetok.engines.plan import EngineJob, plan_engines
from edgetok.engines.toolkit import CAPABILITIES, Target, Toolkit, find_toolkit
from edgetok.errors import IncompatibleError, ResourceError
from edgetok.runtimes.backends.gpu import Gpu, zeros_like_engine

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
_RECORDED = ("decode",)  # short and frequent: launching its kernels one by one costs as much
_LOG = logging.getLogger(__name__)


class DeviceBuffer:
    """A tensor in the GPU's memory, and its copy on the host; see `ort.Buffer`.

    Attributes:
        address: where its values lie, for whoever works on the GPU too.
    """

    def __init__(self, gpu: Gpu, shape: tuple[int, ...], dtype: str, address: int) -> None:
        self.host = zeros_like_engine(shape, dtype)
        self.address = address
        self._gpu = gpu
        self._other: int | None = None

    def push(self) -> None:
        self._gpu.upload(self.address, self.host)

    def pull(self) -> NDArray[Any]:
        self._gpu.download(self.address, self.host)
        return self.host

    def write(self, array: NDArray[Any]) -> None:
        self.host[...] = array
        self.push()

    @property
    def written(self) -> int:
        """Where a graph writes what it makes of this: elsewhere, if there is another place."""
        return self.address if self._other is None else self._other

    def part_ways(self) -> None:
        """From now on read and write in two places."""
        if self._other is None:
            self._other = self._gpu.allocate(self.host.nbytes)

    def flip(self) -> None:
        """What was written is what will be read."""
        if self._other is not None:
            self.address, self._other = self._other, self.address


@dataclass
class DeviceMemory:
    """All buffers of a runtime; those of one name lie in the same memory, as in `ort.Memory`.

    The largest tensor of a name must come first.
    """

    gpu: Gpu
    _places: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    _buffers: dict[tuple[str, tuple[int, ...], str], DeviceBuffer] = field(default_factory=dict)

    def buffer(self, name: str, shape: tuple[int, ...], dtype: str) -> DeviceBuffer:
        """The buffer of this tensor; `present_…` is where `past_…` lies."""
        name = name.replace("present_", "past_", 1)
        if (name, shape, dtype) not in self._buffers:
            place = self._reserve(name, shape, dtype)
            self._buffers[name, shape, dtype] = DeviceBuffer(self.gpu, shape, dtype, place)
        return self._buffers[name, shape, dtype]

    def _reserve(self, name: str, shape: tuple[int, ...], dtype: str) -> int:
        size = math.prod(shape) * np.dtype({"bfloat16": "uint16"}.get(dtype, dtype)).itemsize
        address, held = self._places.get((name, dtype), (0, -1))
        if held < size:
            address = self.gpu.allocate(size)
            self._places[name, dtype] = address, size
        return address


class EngineGraph:
    """One rung of an engine: a context whose tensors have their addresses; see `BoundGraph`."""

    def __init__(self, engine: _Engine, index: int, memory: DeviceMemory) -> None:
        self.stage = engine.job.stages[index]
        self.file = self.stage.file
        self._gpu = memory.gpu
        self._context = engine.make_context(index, memory.gpu.stream)
        constants = engine.job.graph.constants[index]
        self.inputs = self._buffers(engine, self.stage.inputs, memory)
        self.outputs = self._buffers(engine, self.stage.outputs, memory)
        for name, array in constants.items():
            self._place_constant(name, np.ascontiguousarray(array))
        for name, shape in engine.job.graph.shapes[index].items():
            _require(self._context.set_input_shape(name, shape), self.file, f"the shape of {name}")
        self._twins = self._find_twins(engine)
        self._recorded: dict[tuple[int, ...], Callable[[], None]] = {}
        self._runs = 0

    def run(self) -> None:
        """Compute the outputs from the inputs, both in place; returns before that is done.

        Raises:
            IncompatibleError: if TensorRT refuses.
            ResourceError: if the GPU's memory ran out.
        """
        places = tuple(buffer.address for buffer in self._twins.values())
        if places not in self._recorded:
            self._bind()
        if places not in self._recorded and self._may_record():
            self._recorded[places] = self._gpu.record(self._execute)
        self._recorded.get(places, self._execute)()
        self._runs += 1
        for buffer in self._twins.values():
            buffer.flip()

    def _may_record(self) -> bool:
        """From the second run on: the first one may load kernels, which cannot be recorded."""
        if self.stage.stage not in _RECORDED or not self._runs:
            return False
        may = getattr(self._context, "is_stream_capturable", None)
        return may is None or bool(may(self._gpu.stream))

    def _execute(self) -> None:
        _require(self._context.execute_async_v3(self._gpu.stream), self.file, "the call")

    def _bind(self) -> None:
        """Tell the context where its tensors lie."""
        places = {name: buffer.address for name, buffer in self.inputs.items()}
        for name, buffer in self.outputs.items():
            places[name] = buffer.written if name in self._twins else buffer.address
        for name, place in places.items():
            _require(self._context.set_tensor_address(name, place), self.file, f"a place of {name}")

    def _buffers(
        self, engine: _Engine, tensors: list[Tensor], memory: DeviceMemory
    ) -> dict[str, DeviceBuffer]:
        return {
            t.name: memory.buffer(t.name, tuple(t.shape), engine.dtype_of(t.name)) for t in tensors
        }

    def _place_constant(self, name: str, array: NDArray[Any]) -> None:
        address = self._gpu.allocate(array.nbytes)
        self._gpu.upload(address, array)
        self._gpu.wait()  # the array is gone before the stream may have read it
        _require(self._context.set_tensor_address(name, address), self.file, f"a place of {name}")

    def _find_twins(self, engine: _Engine) -> dict[str, DeviceBuffer]:
        """Buffers that this graph reads and writes, and may not write where it reads."""
        twins = {}
        for name, buffer in self.outputs.items():
            before = name.replace("present_", "past_", 1)
            if before != name and before in self.inputs and not engine.writes_in_place(name):
                buffer.part_ways()
                twins[name] = buffer
        return twins


class EngineBackend:
    """Engines of a bundle's portable graphs on the first GPU.

    Args:
        kind: `tensorrt` or `rtx`.
        precision: of matrix products.

    Raises:
        IncompatibleError: if TensorRT, CUDA or a GPU that it serves is missing.
        ResourceError: if memory ran out, or the engine cache cannot be written to.
    """

    def __init__(self, bundle: Bundle, kind: str, flavour: Flavour, precision: str) -> None:
        self._toolkit = find_toolkit(kind)
        self._gpu = Gpu(import_cuda())
        self.memory = DeviceMemory(self._gpu)
        self._target = _target_of(kind, self._gpu.device)
        cache = EngineCache()
        jobs = plan_engines(bundle, flavour=flavour, precision=precision)
        self._jobs = {stage.file: job for job in jobs for stage in job.stages}
        self._foundry = Foundry(bundle, self._toolkit, self._target, cache, self._gpu.device)
        self._logger = make_logger(self._toolkit.module)
        self._runtime = self._toolkit.module.Runtime(self._logger)
        self._engines: dict[str, _Engine] = {}
        self._kernels = _Kernels(cache.kernels_path(self._toolkit, self._gpu.device))
        self._save = weakref.finalize(self, self._kernels.save)  # also where nobody closes this

    def bind(self, stage: Stage) -> EngineGraph:
        """The graph of a stage, in its engine.

        Raises:
            IncompatibleError: if TensorRT refuses the engine that it has just built.
            ResourceError: if memory ran out.
        """
        job = self._jobs[stage.file]
        if job.name not in self._engines:
            opened = self._foundry.open(job, self._deserialize)
            kernels = self._kernels if self._toolkit.kind == "rtx" else None
            self._engines[job.name] = _Engine(job, opened, self._toolkit, self._target, kernels)
        files = [each.file for each in job.stages]
        return EngineGraph(self._engines[job.name], files.index(stage.file), self.memory)

    def close(self) -> None:
        """Give the GPU's memory back and keep the kernels that were compiled."""
        self._save()
        self._engines.clear()
        self._gpu.close()

    def _deserialize(self, data: bytes) -> Any:
        """An engine; None if TensorRT refuses these bytes."""
        try:
            return self._runtime.deserialize_cuda_engine(data)
        except Exception as error:  # what it raises differs from release to release
            _LOG.info("an engine does not open: %s", error)
            return None


def _target_of(kind: str, device: Device) -> Target:
    if kind == "tensorrt":
        return Target(kind)
    if device.capability not in CAPABILITIES:
        raise IncompatibleError(
            f"TensorRT for RTX does not serve {device}; it serves {', '.join(CAPABILITIES)}; use "
            "--device tensorrt or --device cuda"
        )
    return Target(kind, (device.capability,))


class _Kernels:
    """What TensorRT for RTX compiled on this GPU, kept so that the next start is quick."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cache: Any = None

    def configure(self, engine: Any) -> Any:
        """A runtime configuration of an engine that uses what is kept."""
        config = engine.create_runtime_config()
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            if held := read_own(self._path, limits.TIMING_BYTES):
                self._cache.deserialize(held)  # False of another driver or GPU: it begins afresh
        config.set_runtime_cache(self._cache)
        return config

    def save(self) -> None:
        """Write what was compiled; a cache that cannot be written costs the next start time."""
        if self._cache is not None:
            with suppress(OSError):
                publish(self._path, bytes(self._cache.serialize()))


class _Engine:
    """A deserialized engine of a job."""

    def __init__(
        self,
        job: EngineJob,
        engine: Any,
        toolkit: Toolkit,
        target: Target,
        kernels: _Kernels | None,
    ) -> None:
        self.job, self._engine, self._module = job, engine, toolkit.module
        self._profile_per_rung = target.has_profile_per_rung
        self._kernels = kernels

    def make_context(self, index: int, stream: int) -> Any:
        """A context for the rung of this place."""
        given = () if self._kernels is None else (self._kernels.configure(self._engine),)
        context = self._engine.create_execution_context(*given)
        if context is None:
            raise ResourceError(
                f"{self.job.name}: the GPU's memory ran out at an execution context; load fewer "
                "rungs (budgets=…), or end other programs"
            )
        if len(self.job.stages) > 1 and self._profile_per_rung:
            done = context.set_optimization_profile_async(index, stream)
            _require(done, self.job.name, f"optimization profile {index}")
        return context

    def dtype_of(self, name: str) -> str:
        """As NumPy spells it, or `bfloat16`."""
        found = self._engine.get_tensor_dtype(name)
        kinds = self._module.DataType
        return next(own for its, own in _DTYPES.items() if getattr(kinds, its) == found)

    def writes_in_place(self, name: str) -> bool:
        """Whether an output lies in the memory of the input that it continues."""
        find = getattr(self._engine, "get_aliased_input_tensor", None)
        return find is not None and find(name) == name.replace("present_", "past_", 1)


def _require(done: Any, where: str, what: str) -> None:
    """TensorRT says False where it refuses."""
    if not done:
        raise IncompatibleError(
            f"{where}: TensorRT refused {what}; build the engines again with `edgetok build BUNDLE "
            "--again`, and see `edgetok doctor`"
        )
