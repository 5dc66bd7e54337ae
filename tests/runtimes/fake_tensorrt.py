"""Modules with the call surface of `tensorrt` and `cuda.bindings.runtime`, over host memory.

An engine's bytes are the graph that was parsed, and it computes with ONNX Runtime, so that answers
are true. Addresses are those of real memory: a wrong one crashes or gives wrong numbers. What may
go wrong on a real GPU goes wrong here on request. Loaded by the `fake` fixture.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

MAGIC = b"engine\n"


class DataType(IntEnum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4
    BF16 = 7
    INT64 = 8


_KINDS = {
    onnx.TensorProto.FLOAT: (DataType.FLOAT, np.float32),
    onnx.TensorProto.FLOAT16: (DataType.HALF, np.float16),
    onnx.TensorProto.INT8: (DataType.INT8, np.int8),
    onnx.TensorProto.INT32: (DataType.INT32, np.int32),
    onnx.TensorProto.INT64: (DataType.INT64, np.int64),
    onnx.TensorProto.BOOL: (DataType.BOOL, np.bool_),
}


@dataclass
class Faults:
    """What goes wrong.

    Args:
        version: of TensorRT.
        refuses: engines that it will not open: bytes -> whether.
        raises: whether it raises where others return None.
        no_context: whether contexts cannot be had.
        fails: execution says False from so many calls on.
        allocation: of the GPU's memory that is refused, counted from 1; 0 for none.
        capability: of the GPU.
        devices: that there are.
    """

    version: str = "10.3.0"
    refuses: Callable[[bytes], bool] = lambda data: False
    raises: bool = False
    no_context: bool = False
    fails: int | None = None
    allocation: int = 0
    capability: tuple[int, int] = (8, 7)
    devices: int = 1


@dataclass
class Counts:
    """What was asked of the modules."""

    built: int = 0
    opened: int = 0
    contexts: int = 0
    executed: int = 0
    recorded: int = 0
    launched: int = 0
    allocated: int = 0
    copied_bytes: int = 0
    kernels_read: int = 0
    profiles: list[int] = field(default_factory=list)


class Cuda:
    """The functions of `cuda.bindings.runtime` that are used; device memory is host memory."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, faults: Faults, counts: Counts) -> None:
        self._faults, self._counts = faults, counts
        self.memory: dict[int, ctypes.Array[ctypes.c_char]] = {}
        self.recording: list[Callable[[], bool]] | None = None

    def cudaSetDevice(self, number: int) -> tuple[int]:
        return (0,) if number < self._faults.devices else (100,)

    def cudaGetDeviceProperties(self, number: int) -> tuple[int, Any]:
        major, minor = self._faults.capability
        return 0, SimpleNamespace(name=b"Fake GPU\0\0", major=major, minor=minor)

    def cudaDriverGetVersion(self) -> tuple[int, int]:
        return 0, 12060

    def cudaStreamCreate(self) -> tuple[int, int]:
        return 0, 77

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        self._counts.allocated += 1
        if self._counts.allocated == self._faults.allocation:
            return 2, 0
        block = ctypes.create_string_buffer(b"\xcd" * size, size)
        self.memory[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    def cudaMemset(self, address: int, value: int, size: int) -> tuple[int]:
        self._require(address, size)
        ctypes.memset(address, value, size)
        return (0,)

    def cudaFree(self, address: int) -> tuple[int]:
        return (1,) if self.memory.pop(address, None) is None else (0,)

    def cudaMemcpyAsync(
        self, target: int, source: int, size: int, kind: int, stream: int
    ) -> tuple[int]:
        assert stream == 77 and self.recording is None
        self._require(target if kind == 1 else source, size)
        self._counts.copied_bytes += size
        ctypes.memmove(target, source, size)
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        return (0,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:
        self.recording = []
        return (0,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, Any]:
        work, self.recording = self.recording, None
        self._counts.recorded += 1
        return 0, work

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[int, Any]:
        return 0, list(graph)

    def cudaGraphLaunch(self, graph: Any, stream: int) -> tuple[int]:
        self._counts.launched += 1
        return (0,) if all(work() for work in graph) else (700,)

    def _require(self, address: int, size: int) -> None:
        assert any(a <= address and address + size <= a + len(b) for a, b in self.memory.items())


class TensorRt:
    """The parts of the module `tensorrt` that are used, of TensorRT 10."""

    DataType = DataType
    ComputeCapability = SimpleNamespace(SM86="SM86", SM120="SM120")
    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)

    class ILogger:
        ERROR = 1

        def __init__(self) -> None:
            pass

    class IProgressMonitor:
        def __init__(self) -> None:
            pass

    def __init__(self, cuda: Cuda, faults: Faults, counts: Counts) -> None:
        self.cuda, self.faults, self.counts = cuda, faults, counts

    @property
    def __version__(self) -> str:
        return self.faults.version

    @property
    def is_rtx(self) -> bool:
        return self.faults.version.startswith("1.")

    def Builder(self, logger: Any) -> Any:
        return _Builder(self)

    def OnnxParser(self, network: Any, logger: Any) -> Any:
        return _Parser(network)

    def Runtime(self, logger: Any) -> Any:
        return SimpleNamespace(deserialize_cuda_engine=self._open)

    def _open(self, data: bytes) -> Any:
        self.counts.opened += 1
        described = json.loads(data[len(MAGIC) :]) if data.startswith(MAGIC) else {}
        ours = described.get("version") == self.faults.version
        if not ours or self.faults.refuses(data):
            if self.faults.raises:
                raise RuntimeError("incompatible engine")
            return None
        return _Engine(self, described)


class _Builder:
    def __init__(self, module: TensorRt) -> None:
        self._module = module

    def create_network(self, flags: int) -> Any:
        assert flags == (0 if self._module.is_rtx else 2), "a strongly typed network"
        return SimpleNamespace(data=b"", path="")

    def create_builder_config(self) -> Any:
        profiles: list[dict[str, Any]] = []

        def add(profile: Any) -> int:
            profiles.append(profile.shapes)
            return len(profiles) - 1

        timing: list[Any] = []
        return SimpleNamespace(
            profiles=profiles,
            add_optimization_profile=add,
            progress_monitor=None,
            create_timing_cache=lambda data: SimpleNamespace(serialize=lambda: data + b"t"),
            set_timing_cache=lambda cache, ignore: timing.append(cache),
            num_compute_capabilities=0,
            set_compute_capability=lambda capability, index: capability == "SM86" or index == 1,
        )

    def create_optimization_profile(self) -> Any:
        shapes: dict[str, Any] = {}
        return SimpleNamespace(
            shapes=shapes, set_shape=lambda name, *ranges: shapes.update({name: ranges})
        )

    def build_serialized_network(self, network: Any, config: Any) -> bytes:
        self._module.counts.built += 1
        monitor = config.progress_monitor
        monitor.phase_start("building", None, 2)
        if not all(monitor.step_complete("building", step) for step in range(2)):
            return None  # type: ignore[return-value]
        described = {
            "version": self._module.faults.version,
            "graph": network.data.hex(),
            "path": network.path,
            "profiles": config.profiles,
        }
        return MAGIC + json.dumps(described).encode()


class _Parser:
    num_errors = 0

    def __init__(self, network: Any) -> None:
        self._network = network

    def parse(self, data: bytes, path: str) -> bool:
        self._network.data, self._network.path = data, path
        return True


class _Engine:
    def __init__(self, module: TensorRt, described: dict[str, Any]) -> None:
        self.module, self.profiles = module, described["profiles"]
        data = bytes.fromhex(described["graph"])
        graph = onnx.load_model_from_string(data).graph
        ends = [*graph.input, *graph.output]
        self.kinds = {v.name: _KINDS[v.type.tensor_type.elem_type] for v in ends}
        self.inputs = [value.name for value in graph.input]
        self.outputs = [value.name for value in graph.output]
        self._scattered = {
            n.output[0]: n.input[0] for n in graph.node if n.op_type == "TensorScatter"
        }
        settings = ort.SessionOptions()
        settings.log_severity_level = 4
        settings.intra_op_num_threads = 1
        key = "session.model_external_initializers_file_folder_path"
        settings.add_session_config_entry(key, str(Path(described["path"]).parent))
        self.session = ort.InferenceSession(data, settings, providers=["CPUExecutionProvider"])

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.kinds[name][0]

    def get_aliased_input_tensor(self, name: str) -> str | None:
        before = self._scattered.get(name)
        return before if before in self.inputs else None

    def create_runtime_config(self) -> Any:
        """Of TensorRT for RTX."""
        counts = self.module.counts

        def read(blob: bytes) -> bool:
            counts.kernels_read += 1
            return blob == b"kernels"

        cache = SimpleNamespace(deserialize=read, serialize=lambda: b"kernels")
        kept: list[Any] = []
        return SimpleNamespace(create_runtime_cache=lambda: cache, set_runtime_cache=kept.append)

    def create_execution_context(self, config: Any = None) -> Any:
        assert (config is not None) == self.module.is_rtx
        self.module.counts.contexts += 1
        return None if self.module.faults.no_context else _Context(self)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._places: dict[str, int] = {}
        self._profile = 0

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        assert stream == 77
        self._profile = index
        self._engine.module.counts.profiles.append(index)
        return index < max(1, len(self._engine.profiles))

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if self._engine.profiles:
            least, _, most = self._engine.profiles[self._profile][name]
            if not all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True)):
                return False
        self._shapes[name] = tuple(shape)
        return name in self._engine.inputs

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._places[name] = address
        return name in self._engine.kinds

    def execute_async_v3(self, stream: int) -> bool:
        module, places = self._engine.module, dict(self._places)
        assert stream == 77
        module.counts.executed += 1
        if module.faults.fails is not None and module.counts.executed > module.faults.fails:
            return False
        if module.cuda.recording is not None:  # addresses are those of now, values those of later
            module.cuda.recording.append(lambda: self._compute(places))
            return True
        return self._compute(places)

    def _compute(self, places: dict[str, int]) -> bool:
        engine = self._engine
        feeds = {n: self._view(n, places[n], self._shapes[n]).copy() for n in engine.inputs}
        made = engine.session.run(engine.outputs, feeds)
        for name, value in zip(engine.outputs, made, strict=True):
            before = engine.get_aliased_input_tensor(name)
            if before is not None:
                assert places[name] == places[before], "an aliased output lies elsewhere"
            else:
                reads = (places[n] for n in engine.inputs)
                assert places[name] not in reads, "a graph would write where it reads"
            self._view(name, places[name], value.shape)[...] = value
        return True

    def _view(self, name: str, address: int, shape: tuple[int, ...]) -> Any:
        kind = self._engine.kinds[name][1]
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        self._engine.module.cuda._require(address, size)
        block = (ctypes.c_char * size).from_address(address)
        return np.frombuffer(block, kind).reshape(shape)


def make() -> tuple[TensorRt, Cuda, Faults, Counts]:
    """The modules, what goes wrong in them, and what was asked of them."""
    faults, counts = Faults(), Counts()
    cuda = Cuda(faults, counts)
    return TensorRt(cuda, faults, counts), cuda, faults, counts
