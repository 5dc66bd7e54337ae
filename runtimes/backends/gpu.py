"""Memory of a GPU, copies and recorded work on one stream: the little of CUDA that is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetok.engines.device import Device, checked, find_device


class Gpu:
    """One GPU with one stream, on which all work of a runtime happens in order.

    Args:
        cuda: the module `cuda.bindings.runtime`, or one with its functions.
        number: of the device.

    Raises:
        IncompatibleError: if there is no GPU or no driver.
    """

    def __init__(self, cuda: Any, number: int = 0) -> None:
        self._cuda = cuda
        checked(cuda.cudaSetDevice(number), "choose the GPU")
        self.device: Device = find_device(cuda, number)
        self.stream = int(checked(cuda.cudaStreamCreate(), "make a stream"))
        self._held: list[int] = []

    def allocate(self, size: int) -> int:
        """Address of so many bytes, which are zero.

        Raises:
            ResourceError: if the memory ran out.
        """
        address = int(checked(self._cuda.cudaMalloc(max(1, size)), f"allocate {size} bytes"))
        self._held.append(address)
        checked(self._cuda.cudaMemset(address, 0, max(1, size)), "clear memory")
        return address

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """Copy an array there; it may change as soon as this returns."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(address, array.ctypes.data, array.nbytes, kind)

    def download(self, address: int, array: NDArray[Any]) -> None:
        """Copy from there into an array, after all work that was begun before.

        Raises:
            IncompatibleError: if that work failed.
        """
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(array.ctypes.data, address, array.nbytes, kind)
        self.wait()

    def wait(self) -> None:
        """Until all work is done."""
        checked(self._cuda.cudaStreamSynchronize(self.stream), "finish its work")

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """What `work` puts on the stream, to be launched again as one graph."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        checked(self._cuda.cudaStreamBeginCapture(self.stream, mode), "record work")
        try:
            work()
        finally:
            graph = checked(self._cuda.cudaStreamEndCapture(self.stream), "record work")
        ready = checked(self._cuda.cudaGraphInstantiate(graph, 0), "make a graph of work")
        return lambda: checked(self._cuda.cudaGraphLaunch(ready, self.stream), "launch a graph")

    def close(self) -> None:
        """Give all memory back."""
        self.wait()
        while self._held:
            checked(self._cuda.cudaFree(self._held.pop()), "free memory")

    def _copy(self, target: int, source: int, size: int, kind: Any) -> None:
        # From pageable memory this returns once the source may change.
        done = self._cuda.cudaMemcpyAsync(target, source, size, kind, self.stream)
        checked(done, "copy memory")


def zeros_like_engine(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Host memory of a tensor; numbers of bfloat16, which NumPy lacks, are held as they lie."""
    return np.zeros(shape, {"bfloat16": "uint16"}.get(dtype, dtype))
