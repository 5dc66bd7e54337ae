"""PyTorch's table of what each operator is in ONNX, made once for all graphs of an export.

`torch.onnx.export` compiles some 500 functions of onnxscript for each graph, a fifth of the time
that a graph of a small decoder takes. Nothing of ours adds to the table, so that it stays as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch.onnx._internal.exporter import _registration

_TABLES: dict[int, Any] = {}  # by opset


@contextlib.contextmanager
def kept_registry() -> Iterator[None]:
    """Have exports within take the table that the first of them made.

    Where this PyTorch makes it in another way, each makes its own.
    """
    registry: Any = getattr(_registration, "ONNXRegistry", None)
    make = getattr(registry, "from_torchlib", None)
    if make is None:
        yield
        return

    def keep(opset_version: int = 0) -> Any:
        if opset_version not in _TABLES:
            given = {"opset_version": opset_version} if opset_version else {}
            _TABLES[opset_version] = make(**given)
        return _TABLES[opset_version]

    own = registry.__dict__["from_torchlib"]
    registry.from_torchlib = staticmethod(keep)
    try:
        yield
    finally:
        registry.from_torchlib = own
