"""One external-data file for all graphs: equal tensors are stored once, whatever their names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgetok import limits
from edgetok.scratch import Scratch

FILE = "weights/model.bin"
INLINE_BYTES = 256  # smaller tensors stay in the graph: a page each would cost more


@dataclass
class WeightStore:
    """Collects tensors in order of first use in scratch space; `chunks` yields the file."""

    scratch: Scratch = field(default_factory=Scratch)
    offset: int = 0
    tensors: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    _places: dict[str, int] = field(default_factory=dict)

    def externalize(self, model: ir.Model) -> bytes:
        """Move the initializers of `model` into the store; returns the graph's bytes."""
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.nbytes > INLINE_BYTES:
                value.const_value = ir.ExternalTensor(
                    FILE, self._place(tensor), tensor.nbytes, tensor.dtype,
                    shape=tensor.shape, name=value.name or "",
                )  # fmt: skip
        proto = ir.to_proto(model)
        data: bytes = proto.SerializeToString(deterministic=True)
        return data

    def _place(self, tensor: ir.TensorProtocol) -> int:
        data = tensor.tobytes()
        digest = sha256(data).hexdigest()
        if digest not in self._places:
            self._places[digest] = self.offset
            self.tensors.append(self.scratch.hold(np.frombuffer(data, np.uint8)))
            self.offset += _aligned(tensor.nbytes)
        return self._places[digest]

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The weights file, tensor by tensor, each padded to a page."""
        for data in self.tensors:
            yield data.data
            padding = _aligned(data.nbytes) - data.nbytes
            if padding:
                yield bytes(padding)


def _aligned(size_bytes: int) -> int:
    page = limits.WEIGHTS_ALIGNMENT_BYTES
    return -(-size_bytes // page) * page
