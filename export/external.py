"""One external-data file for all graphs: equal tensors are stored once, whatever their names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256

import onnx_ir as ir

from edgetok import limits

FILE = "weights/model.bin"
INLINE_BYTES = 256  # smaller tensors stay in the graph: a page each would cost more


@dataclass
class WeightStore:
    """Collects tensors in order of first use; `chunks` yields the file."""

    offset: int = 0
    tensors: list[ir.TensorProtocol] = field(default_factory=list)
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
        digest = sha256(tensor.tobytes()).hexdigest()
        if digest not in self._places:
            self._places[digest] = self.offset
            self.tensors.append(tensor)
            self.offset += _aligned(tensor.nbytes)
        return self._places[digest]

    def chunks(self) -> Iterator[bytes]:
        """The weights file, tensor by tensor, each padded to a page."""
        for tensor in self.tensors:
            yield tensor.tobytes()
            padding = _aligned(tensor.nbytes) - tensor.nbytes
            if padding:
                yield bytes(padding)


def _aligned(size_bytes: int) -> int:
    page = limits.WEIGHTS_ALIGNMENT_BYTES
    return -(-size_bytes // page) * page
