"""A graph of a bundle: its entry in the manifest, and its bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from edgetok.bundle.manifest import Stage, Tensor
from edgetok.export.attention import StageModule

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Graph:
    """One graph: its entry in the manifest and its bytes, which point into the weights file."""

    stage: Stage
    data: bytes


@dataclass(frozen=True)
class StageSpec:
    """A stage that is not built yet.

    Args:
        name: of the stage in the manifest.
        budget: of the rung that it serves; None where all rungs share it.
        build: makes the module, once.
        layer: the decoder layer whose cache it empties, or with which it begins.
        rows: text tokens or rows of a chunk, where there is a longer graph of the same stage.
    """

    name: str
    budget: int | None
    build: Callable[[], StageModule]
    layer: int | None = None
    rows: int | None = None

    @property
    def title(self) -> str:
        """The name of its file."""
        parts = (self.name, self.layer, self.budget, self.rows)
        return "_".join(str(part) for part in parts if part is not None)


def describe_tensor(value: ir.Value) -> Tensor:
    """A graph's input or output as the manifest lists it."""
    dtype = str(value.dtype).lower() if value.dtype else ""
    dtype = "float32" if dtype == "float" else dtype
    shape = [int(dim) for dim in value.shape]
    return Tensor(name=str(value.name), dtype=dtype, shape=shape)  # type: ignore[arg-type]
