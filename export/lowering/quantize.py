"""Quantization of graphs: constant matrices of few bits, and products that read them.

Matrices of 8 bits are int8 with a scale per column, in products of whole numbers
(`integer_products`). Those of 4 bits have a scale per block (`blocks`): a MatMulNBits where one row
is multiplied, and where several are, an int8 matrix that the `unpack` graph makes of the blocks
when a bundle is loaded (`unpacking`). A matrix that several graphs share is quantized once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as passes

from edgetok import names
from edgetok.export.lowering.blocks import round_blocks
from edgetok.export.lowering.integer_products import IntegerProducts, register, take_place
from edgetok.export.lowering.levels import round_levels
from edgetok.export.lowering.names import CONTRIB
from edgetok.export.lowering.unpacking import PackedMatrix, make_unpack
from edgetok.scratch import Scratch

Matrix = npt.NDArray[np.float32]
ACCURACY_LEVEL = 4  # int8 activations: 2.7 times faster than float32 ones on a CPU
SMALLEST_ROWS = 64  # below this a matrix is smaller than what quantizing it would add

# Stages that multiply 4 bits as they are stored: a step has one row, which is quicker so, and hosts
# of encoders run no `unpack`.
OF_BLOCKS = ("decode", names.ENCODE, names.DESCRIBE)
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
    _columns: dict[str, tuple[ir.Tensor, ir.Tensor]] = field(default_factory=dict)
    _blocks: dict[str, tuple[str, PackedMatrix]] = field(default_factory=dict)
    _unpacked: dict[str, PackedMatrix] = field(default_factory=dict)

    def quantize(self, model: ir.Model, stage: str, bits: Mapping[str, int]) -> ir.Model:
        """Replace MatMul and Gemm with constant weights in place, by the bits of `BITS`."""
        if stage not in bits:
            return model
        model.graph.opset_imports[CONTRIB] = 1
        products = IntegerProducts(model.graph)
        for node in list(model.graph):
            weight = constant_matrix(node)
            if weight is None or not is_quantizable(weight):
                continue
            is_head = node.outputs[0].is_graph_output() and "head" in bits and stage != "compress"
            if bits["head" if is_head else stage] == 8:
                products.replace(node, *self._in_columns(model.graph, node, weight))
            elif stage in OF_BLOCKS:
                self._multiply_blocks(model.graph, node, weight)
            else:
                products.replace(node, *self._unpack(model.graph, node, weight))
        passes.RemoveUnusedNodesPass()(model)
        return model

    def make_unpack(self) -> ir.Model | None:
        """The `unpack` graph of all matrices that graphs so far read unpacked; None without any."""
        return make_unpack(self._unpacked) if self._unpacked else None

    def _in_columns(
        self, graph: ir.Graph, node: ir.Node, weight: Matrix
    ) -> tuple[ir.Value, ir.Value]:
        key = _digest(weight)
        if key not in self._columns:
            levels, scales = round_levels(weight, 8)
            hold = self.scratch.hold
            self._columns[key] = ir.tensor(hold(levels)), ir.tensor(hold(scales.reshape(-1)))
        levels, scales = self._columns[key]
        return _constant(graph, node, "int8", levels), _constant(graph, node, "scales", scales)

    def _unpack(self, graph: ir.Graph, node: ir.Node, weight: Matrix) -> tuple[ir.Value, ir.Value]:
        name, matrix = self._pack(weight)
        self._unpacked[name] = matrix
        value = next((each for each in graph.inputs if each.name == name), None)
        if value is None:
            shape = ir.Shape([matrix.rows, matrix.columns])
            value = ir.Value(name=name, shape=shape, type=ir.TensorType(ir.DataType.INT8))
            graph.inputs.append(value)
        return value, _constant(graph, node, "scales", ir.tensor(matrix.column_scales))

    def _multiply_blocks(self, graph: ir.Graph, node: ir.Node, weight: Matrix) -> None:
        _, matrix = self._pack(weight)
        inputs = [node.inputs[0], _constant(graph, node, "q4", ir.tensor(matrix.packed))]
        inputs.append(_constant(graph, node, "scales", ir.tensor(matrix.scales)))
        if node.op_type == "Gemm" and len(node.inputs) > 2:
            inputs += [None, None, node.inputs[2]]
        new = ir.node(
            "MatMulNBits",
            inputs,
            attributes={
                "K": weight.shape[0],
                "N": weight.shape[1],
                "bits": 4,
                "block_size": matrix.packed.shape[2] * 2,
                "accuracy_level": ACCURACY_LEVEL,
            },
            domain=CONTRIB,
        )
        graph.insert_before(node, new)
        take_place(graph, node, new.outputs[0])

    def _pack(self, weight: Matrix) -> tuple[str, PackedMatrix]:
        """A matrix in blocks, and its name among those that are unpacked."""
        key = _digest(weight)
        if key not in self._blocks:
            packed, scales = (self.scratch.hold(part) for part in quantize_matrix(weight, 4))
            matrix = PackedMatrix(packed, scales, weight.shape[0])
            self._blocks[key] = f"{names.UNPACKED}{len(self._blocks)}", matrix
        return self._blocks[key]


def _digest(weight: Matrix) -> str:
    return sha256(np.ascontiguousarray(weight).tobytes()).hexdigest()


def is_quantizable(weight: npt.NDArray[np.float32]) -> bool:
    """Whether a matrix [K, N] is large enough to be worth quantizing.

    Only K counts: packing matrices side by side changes N, and must not change their precision.
    """
    return int(weight.shape[0]) >= SMALLEST_ROWS


def quantize_matrix(
    weight: npt.NDArray[np.float32], bits: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """weight [K, N] -> packed [N, blocks, bytes] uint8 and scales [N, blocks] float32."""
    return round_blocks(weight, bits)


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


def _constant(graph: ir.Graph, node: ir.Node, kind: str, tensor: ir.Tensor) -> ir.Value:
    return register(graph, ir.tensor(tensor.numpy(), name=f"{node.outputs[0].name}_{kind}"))
