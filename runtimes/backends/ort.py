"""One graph in ONNX Runtime, bound once to fixed memory: a run allocates nothing of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetok.bundle.manifest import Manifest, Stage, Tensor, digest_content
from edgetok.bundle.paths import require_unicode_path
from edgetok.bundle.reader import Bundle, EncoderBundle
from edgetok.errors import BundleError, EdgetokError, IncompatibleError, ResourceError
from edgetok.overflow import EXACT, overflows
from edgetok.runtimes.backends.providers import (
    DEVICES,
    STAGE_OPTIONS,
    configure,
    import_onnxruntime,
    require_provider_in_use,
)
from edgetok.user_cache import cache_directory

CPU = DEVICES["cpu"]
_FATAL = 4  # ONNX Runtime's own log; what it would print on stderr is in our errors
_OUT_OF_MEMORY = ("bad_alloc", "allocate", "out of memory", "CUDA failure 2")


class Buffer:
    """A tensor at a fixed address, in host memory and, for other devices, there too.

    Write `host`, then `push`; or `pull`, then read `host`. On the CPU both are the same memory.
    """

    def __init__(self, tensor: Tensor, device: str, storage: NDArray[Any]) -> None:
        import onnxruntime as ort

        self.host: NDArray[Any] = storage[: math.prod(tensor.shape)].reshape(tensor.shape)
        self._on_host = device == "cpu"
        if self._on_host:
            self.value = ort.OrtValue.ortvalue_from_numpy(self.host)
        else:
            self.value = ort.OrtValue.ortvalue_from_numpy(self.host, device, 0)

    def push(self) -> None:
        if not self._on_host:
            self.value.update_inplace(self.host)

    def pull(self) -> NDArray[Any]:
        if not self._on_host:
            np.copyto(self.host, self.value.numpy())
        return self.host

    def write(self, array: NDArray[Any]) -> None:
        self.host[...] = array
        self.push()


@dataclass(slots=True)
class Memory:
    """All buffers of a runtime: tensors of one name are one buffer in every graph.

    So the tower writes where `compress` reads, all rungs share one KV cache and one set of input
    rows, and what `present_*` writes is what `past_*` reads at the next step. The graph with the
    largest tensor of a name must come first.
    """

    device: str
    _storage: dict[tuple[str, str], NDArray[Any]] = field(default_factory=dict)
    _buffers: dict[tuple[str, tuple[int, ...], str], Buffer] = field(default_factory=dict)

    def buffer(self, tensor: Tensor, device: str) -> Buffer:
        name = tensor.name.replace("present_", "past_", 1)
        key = (name, tuple(tensor.shape), device)
        if key not in self._buffers:
            self._buffers[key] = Buffer(tensor, device, self._reserve(name, tensor))
        return self._buffers[key]

    def _reserve(self, name: str, tensor: Tensor) -> NDArray[Any]:
        count = math.prod(tensor.shape)
        storage = self._storage.get((name, tensor.dtype))
        if storage is None or storage.size < count:
            # Pages of zeros become real memory when they are first written, so an unused part of
            # the KV cache costs nothing.
            storage = self._storage[name, tensor.dtype] = np.zeros(count, tensor.dtype)
        return storage


class OrtBackend:
    """ONNX Runtime with one execution provider."""

    def __init__(self, bundle: Bundle | EncoderBundle, provider: str, threads: int) -> None:
        self._bundle, self._provider, self._threads = bundle, provider, threads
        self._folder = _engine_folder(bundle, provider)
        self.memory = Memory("cpu" if provider == CPU else "cuda")

    def bind(self, stage: Stage) -> BoundGraph:
        """A session of a stage's graph over the buffers of all.

        Raises:
            BundleError: if the graph is damaged.
            IncompatibleError: if ONNX Runtime refuses it.
            ResourceError: if there is too little memory.
        """
        graph, root = self._bundle.graph(stage), self._bundle.root
        providers = configure(self._provider, self._folder)
        session = make_session(graph, stage, root, providers, self._threads)
        return BoundGraph(session, stage, self.memory)

    def close(self) -> None:
        """Let go of all buffers; sessions go with the graphs that they belong to."""
        self.memory = Memory(self.memory.device)


def _engine_folder(bundle: Bundle | EncoderBundle, provider: str) -> Path:
    """Where a provider keeps engines of this bundle; another version finds none of them."""
    version, manifest = import_onnxruntime().__version__, bundle.manifest
    digest = digest_content(manifest) if isinstance(manifest, Manifest) else bundle.digest
    return cache_directory() / "engines" / digest[:16] / f"onnxruntime-{version}-{provider}"


class BoundGraph:
    """A session whose inputs and outputs are bound to buffers."""

    def __init__(self, session: Any, stage: Stage, memory: Memory) -> None:
        self.file = stage.file
        self._session = session
        self._binding = session.io_binding()
        self.inputs = self._bind_inputs(stage, memory)
        self.outputs = self._bind_outputs(stage, memory)

    def run(self) -> None:
        """Compute the outputs from the inputs, both in place.

        Raises:
            ResourceError: if memory ran out.
            IncompatibleError: if ONNX Runtime refuses the graph only now.
        """
        with translated_errors(self.file):
            self._session.run_with_iobinding(self._binding)

    def _bind_inputs(self, stage: Stage, memory: Memory) -> dict[str, Buffer]:
        nodes = self._session.get_inputs()
        places = _places(nodes, self._session.get_input_memory_infos(), memory.device)
        buffers = {t.name: memory.buffer(t, places[t.name]) for t in stage.inputs}
        for name, buffer in buffers.items():
            self._binding.bind_ortvalue_input(name, buffer.value)
        return buffers

    def _bind_outputs(self, stage: Stage, memory: Memory) -> dict[str, Buffer]:
        nodes = self._session.get_outputs()
        places = _places(nodes, self._session.get_output_memory_infos(), memory.device)
        buffers = {t.name: memory.buffer(t, places[t.name]) for t in stage.outputs}
        for name, buffer in buffers.items():
            self._binding.bind_ortvalue_output(name, buffer.value)
        return buffers


def _places(nodes: list[Any], infos: list[Any], device: str) -> dict[str, str]:
    """Where each tensor is read or written: lengths stay on the host even on a GPU."""
    names = [node.name for node in nodes]
    hosts = ["cpu" in info.name.lower() for info in infos]
    return {n: "cpu" if host else device for n, host in zip(names, hosts, strict=True)}


def make_session(
    graph: bytes, stage: Stage, root: Path, providers: Sequence[Any], threads: int
) -> Any:
    """A session of a bundle's graph; its weights are read from below the bundle's root.

    Args:
        providers: what may run nodes, the one that must first.

    Raises:
        IncompatibleError: if this ONNX Runtime cannot run it on the provider.
        ResourceError: if memory ran out.
    """
    import onnxruntime as ort

    settings = _settings(ort, stage, root, threads)
    first = providers[0]
    provider = first if isinstance(first, str) else first[0]
    if provider != CPU:
        # One node on the CPU would copy its tensors back and forth at every step.
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    with translated_errors(stage.file):
        # Its fallback prints to standard output, and would run on another device.
        session = ort.InferenceSession(graph, settings, list(providers), enable_fallback=0)
    require_provider_in_use(session.get_providers(), provider)
    return session


def _settings(ort: Any, stage: Stage, root: Path, threads: int) -> Any:
    options = STAGE_OPTIONS[stage.stage]
    settings = ort.SessionOptions()
    settings.log_severity_level = _FATAL
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.enable_cpu_mem_arena = options.arena
    entries = {
        "session.model_external_initializers_file_folder_path": require_unicode_path(root),
        "session.disable_prepacking": "0" if options.prepack else "1",
        "session.intra_op.allow_spinning": "1" if options.spinning else "0",
    }
    if stage.flavour == "ort" and overflows():  # others have no such products
        entries |= [EXACT]
    for key, value in entries.items():
        settings.add_session_config_entry(key, value)
    return settings


@contextmanager
def translated_errors(file: str) -> Iterator[None]:
    """Turn what ONNX Runtime raises into errors of edgetok."""
    try:
        yield
    except EdgetokError:
        raise
    except MemoryError as error:
        raise _out_of_memory(file, error) from error
    except Exception as error:  # its classes share no base but Exception
        text = str(error)
        if any(sign in text for sign in _OUT_OF_MEMORY):
            raise _out_of_memory(file, error) from error
        if type(error).__name__ == "NoSuchFile":
            raise BundleError(f"{file}: its weights cannot be opened: {_brief(text)}") from error
        import onnxruntime

        raise IncompatibleError(
            f"{file}: onnxruntime {onnxruntime.__version__} cannot run it: {_brief(text)}; upgrade "
            f"onnxruntime or export again"
        ) from error


def _out_of_memory(file: str, error: Exception) -> ResourceError:
    return ResourceError(
        f"{file}: memory ran out ({_brief(str(error))}); load fewer rungs (budgets=…), or export "
        f"with int4 weights and an int8 KV cache"
    )


def _brief(text: str) -> str:
    first_line = text.strip().splitlines()[0] if text.strip() else "no message"
    return first_line[:300]
