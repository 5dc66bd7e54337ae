"""The `unpack` graph: weights of 4 bits made int8, once when a bundle is loaded.

A step of decoding reads blocks of 4 bits; graphs of several rows multiply int8 with a scale per
column (`integer_products`), which is three times as fast. The file holds the blocks alone, and the
int8 matrices are inputs of those graphs, under the names that `unpack` gives its outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgetok import names
from edgetok.export.lowering.integer_products import register

OPSET, IR_VERSION = 21, 10  # DequantizeLinear of blocks


@dataclass(frozen=True)
class PackedMatrix:
    """A weight [K, N] as MatMulNBits stores it at 4 bits.

    Args:
        packed: uint8 [N, blocks, bytes], two numbers a byte.
        scales: float32 [N, blocks].
        rows: K.
    """

    packed: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float32]
    rows: int

    @property
    def columns(self) -> int:
        return int(self.packed.shape[0])

    @property
    def column_scales(self) -> npt.NDArray[np.float32]:
        """Scales [N] at which no number of a column exceeds 63: blocks hold up to 8 scales.

        Beside 4 bits 7 are exact enough, and AVX2 cannot overflow: it adds two products in 16 bits,
        and 255 * 63 * 2 fits. (For weights that are constants, `session.x64quantprecision` does.)
        """
        largest = np.abs(self.scales).max(1) * np.float32(8 / 63)
        return np.where(largest > 0, largest, np.float32(1)).astype(np.float32)


def make_unpack(matrices: Mapping[str, PackedMatrix]) -> ir.Model:
    """A graph without inputs that makes an int8 matrix [K, N] of each name."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name=names.UNPACK)
    for name, matrix in matrices.items():
        graph.outputs.append(_unpack(graph, name, matrix))
    return ir.Model(graph, ir_version=IR_VERSION)


def _unpack(graph: ir.Graph, name: str, matrix: PackedMatrix) -> ir.Value:
    count, blocks, size = matrix.packed.shape
    padded = blocks * size * 2
    packed = ir.PackedTensor(
        matrix.packed.reshape(-1), ir.DataType.UINT4, shape=[count, padded], name=f"{name}_q4"
    )
    middle = ir.tensor(
        np.full((count, blocks), 8, np.uint8), dtype=ir.DataType.UINT4, name=f"{name}_middle"
    )
    scales = ir.tensor(matrix.scales.reshape(count, blocks), name=f"{name}_blocks")
    columns = ir.tensor(matrix.column_scales, name=f"{name}_columns")
    zeros = ir.tensor(np.zeros(count, np.int8), name=f"{name}_zeros")

    def insert(operator: str, *inputs: ir.Value, **attributes: object) -> ir.Value:
        node = ir.node(operator, inputs, attributes=attributes)
        graph.append(node)
        return node.outputs[0]

    given = [register(graph, tensor) for tensor in (packed, scales, middle)]
    values = insert("DequantizeLinear", *given, axis=1, block_size=2 * size)
    rounding = [register(graph, tensor) for tensor in (columns, zeros)]
    levels = insert("QuantizeLinear", values, *rounding, axis=0)
    if padded != matrix.rows:
        ends = [np.array(end, np.int64) for end in ([0], [matrix.rows], [1])]
        cut = [
            register(graph, ir.tensor(end, name=f"{name}_cut_{place}"))
            for place, end in enumerate(ends)
        ]
        levels = insert("Slice", levels, *cut)
    result = insert("Transpose", levels, perm=[1, 0])
    result.name, result.type = name, ir.TensorType(ir.DataType.INT8)
    result.shape = ir.Shape([matrix.rows, matrix.columns])
    return result
