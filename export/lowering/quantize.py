"""Weight-only quantization of graphs: each constant matrix becomes one MatMulNBits.

The arithmetic is ONNX Runtime's own block quantizer (symmetric, one scale per block of 32). A
matrix that several graphs share is quantized once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from types import ModuleType
from typing import cast

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as passes

from edgetok import names
from edgetok.export.lowering.names import CONTRIB
from edgetok.scratch import Scratch

BLOCK = 32  # 5 bits per int4 weight; 128 would be 4.25 bits and coarser
ACCURACY_LEVEL = 4  # int8 activations: 2.7 times faster than float32 ones on a CPU
SMALLEST_ROWS = 64  # below this a matrix is smaller than what quantizing it would add

DECODER = ("prefill", names.SEGMENT, names.EXITED, "extend", "decode")
# Bits per stage; a stage that is not named stays float32. The head decides between words and the
# tower between tokens, so both keep 8 bits; fewer were not tried. `table` is the embedding, of the
# head's bits, so that it is the head's own bytes where a checkpoint ties them.
BITS: dict[str, dict[str, int]] = {
    "fp32": {},
    "int8": {"tower": 8, "compress": 8, **dict.fromkeys(DECODER, 8), "head": 8, "table": 8},
    "int4": {"tower": 8, "compress": 8, **dict.fromkeys(DECODER, 4), "head": 8, "table": 8},
}
# Of all matrices alike: an encoder is its tower, so that keeping it at 8 bits would keep all.
ENCODER = (names.ENCODE, names.DESCRIBE, "head")
ENCODER_BITS: dict[str, dict[str, int]] = {
    "fp32": {},
    "int8": dict.fromkeys(ENCODER, 8),
    "int4": dict.fromkeys(ENCODER, 4),
}


@dataclass
class Quantizer:
    """Quantizes matrices, remembering those it has seen in scratch space."""

    scratch: Scratch = field(default_factory=Scratch)
    _seen: dict[tuple[str, int], tuple[ir.Tensor, ir.Tensor]] = field(default_factory=dict)

    def quantize(self, model: ir.Model, stage: str, bits: Mapping[str, int]) -> ir.Model:
        """Replace MatMul and Gemm with constant weights in place, by the bits of `BITS`."""
        if stage not in bits:
            return model
        model.graph.opset_imports[CONTRIB] = 1
        for node in list(model.graph):
            weight = constant_matrix(node)
            if weight is None or not is_quantizable(weight):
                continue
            is_head = node.outputs[0].is_graph_output() and "head" in bits and stage != "compress"
            self._replace(model.graph, node, weight, bits["head" if is_head else stage])
        passes.RemoveUnusedNodesPass()(model)
        return model

    def _replace(
        self, graph: ir.Graph, node: ir.Node, weight: npt.NDArray[np.float32], bits: int
    ) -> None:
        packed, scales = self._pack(weight, bits)
        name = node.outputs[0].name
        inputs = [node.inputs[0], _constant(graph, f"{name}_q{bits}", packed)]
        inputs.append(_constant(graph, f"{name}_scales", scales))
        if node.op_type == "Gemm" and len(node.inputs) > 2:
            inputs += [None, None, node.inputs[2]]
        new = ir.node(
            "MatMulNBits",
            inputs,
            attributes={
                "K": weight.shape[0],
                "N": weight.shape[1],
                "bits": bits,
                "block_size": BLOCK,
                "accuracy_level": ACCURACY_LEVEL,
            },
            domain=CONTRIB,
        )
        result = new.outputs[0]
        result.shape, result.type = node.outputs[0].shape, node.outputs[0].type
        graph.insert_before(node, new)
        node.outputs[0].replace_all_uses_with(result, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        result.name = name

    def _pack(self, weight: npt.NDArray[np.float32], bits: int) -> tuple[ir.Tensor, ir.Tensor]:
        key = (sha256(np.ascontiguousarray(weight).tobytes()).hexdigest(), bits)
        if key not in self._seen:
            packed, scales = quantize_matrix(weight, bits)
            hold = self.scratch.hold
            self._seen[key] = ir.tensor(hold(packed)), ir.tensor(hold(scales))
        return self._seen[key]


def is_quantizable(weight: npt.NDArray[np.float32]) -> bool:
    """Whether a matrix [K, N] is large enough to be worth quantizing.

    Only K counts: packing matrices side by side changes N, and must not change their precision.
    """
    return int(weight.shape[0]) >= SMALLEST_ROWS


def quantize_matrix(
    weight: npt.NDArray[np.float32], bits: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """weight [K, N] -> packed [N, blocks, bytes] uint8 and scales [N, blocks] float32."""
    library = _import_quantizer()
    config = library.DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=True, bits=bits)
    quantizer = library.DefaultWeightOnlyQuantizer(config)
    packed, scales, _ = quantizer.qbits_block_quant(np.ascontiguousarray(weight))
    return packed, scales


def _import_quantizer() -> ModuleType:
    """ONNX Runtime's quantizer; importing it configures the root logger, which is undone here."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    from onnxruntime.quantization import matmul_nbits_quantizer as library

    root.handlers[:] = handlers
    root.setLevel(level)
    return cast(ModuleType, library)


def dequantize_matrix(
    packed: npt.NDArray[np.uint8], scales: npt.NDArray[np.float32], rows: int, bits: int
) -> npt.NDArray[np.float32]:
    """The inverse of `quantize_matrix` up to rounding: [rows, N] float32."""
    if bits == 4:
        packed = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:2], -1)
    levels = packed.astype(np.float32) - (1 << (bits - 1))
    columns = (levels * scales[..., None]).reshape(packed.shape[0], -1)
    return np.ascontiguousarray(columns[:, :rows].T)


def constant_matrix(node: ir.Node) -> npt.NDArray[np.float32] | None:
    """The weight [K, N] of a MatMul or Gemm with a constant right side, else None."""
    if node.op_type not in ("MatMul", "Gemm") or node.inputs[1] is None:
        return None
    tensor = node.inputs[1].const_value
    if tensor is None or len(tensor.shape) != 2:
        return None
    matrix: npt.NDArray[np.float32] = tensor.numpy()
    if node.op_type == "MatMul":
        return matrix
    if node.attributes.get_int("transA", 0):
        return None
    return matrix.T if node.attributes.get_int("transB", 0) else matrix


def _constant(graph: ir.Graph, name: str, tensor: ir.Tensor) -> ir.Value:
    own = ir.tensor(tensor.numpy(), name=name)
    value = ir.Value(name=name, shape=own.shape, type=ir.TensorType(own.dtype), const_value=own)
    graph.register_initializer(value)
    return value
