"""What a runtime asks of whatever runs its graphs; see runtimes/cpp/src/backends/backend.hpp."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from edgetok.bundle.manifest import Stage


class Tensor(Protocol):
    """A tensor at a fixed address, in host memory and, for other devices, there too.

    Write `host`, then `push`; or `pull`, then read `host`.
    """

    host: NDArray[Any]

    def push(self) -> None: ...

    def pull(self) -> NDArray[Any]: ...

    def write(self, array: NDArray[Any]) -> None: ...


class Graph(Protocol):
    """A graph whose inputs and outputs are bound to memory."""

    @property
    def file(self) -> str: ...

    @property
    def inputs(self) -> Mapping[str, Tensor]: ...

    @property
    def outputs(self) -> Mapping[str, Tensor]: ...

    def run(self) -> None:
        """Compute the outputs from the inputs, both in place."""
        ...


class Backend(Protocol):
    """Makes graphs of a bundle's stages over one set of buffers: those of a name are one buffer.

    So the tower writes where `compress` reads, and what `present_*` writes is what `past_*` reads
    at the next step. The graph with the largest tensor of a name must come first.
    """

    def bind(self, stage: Stage) -> Graph: ...

    def close(self) -> None:
        """Let go of all graphs and memory of a device, and keep what makes the next start quick."""
        ...
