"""Matrix products in 8-bit whole numbers, for graphs that multiply several rows at once.

A weight [K, N] is int8 with a scale per column. Rows of activations are rounded when they come,
each with a scale of its own, so that neither padding nor other rows of a call change a row, and a
row with large values spoils no other. With z, the uint8 that stands for 0:

    scale[i] = max(max_k x[i, k] / (255 - z), min_k x[i, k] / -z)
    q[i, k]  = round(x[i, k] / scale[i]) + z
    y[i, j]  = scale[i] * column_scale[j] * sum_k (q[i, k] - z) * w[k, j]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import onnx_ir as ir

from edgetok.export.lowering.names import CONTRIB

MIDDLE = 128  # z of values on both sides of zero
# z behind an activation function, which makes no value below -0.28.
ONE_SIDED, ABOVE = ("Gelu", "QuickGelu", "FastGelu", "Relu"), 16
SMALLEST_SCALE = 1e-30  # of a row of zeros


@dataclass
class IntegerProducts:
    """Writes products of one graph; a value that several of them read is rounded once."""

    graph: ir.Graph
    _rounded: dict[ir.Value, tuple[ir.Value, ir.Value, ir.Value]] = field(default_factory=dict)

    def replace(self, node: ir.Node, weight: ir.Value, scales: ir.Value) -> None:
        """Put x @ (weight * scales) in the place of a MatMul, or of a Gemm with its bias.

        Args:
            weight: int8 [K, N], a constant or an input of the graph.
            scales: float32 [N].
        """
        rows, scale, zero = self._round(node)
        inputs = [rows, weight, self._constant("one", np.float32(1)), scales, zero]
        product = self._insert(node, "MatMulIntegerToFloat", inputs, domain=CONTRIB)
        result = self._insert(node, "Mul", [product, scale])
        if node.op_type == "Gemm" and len(node.inputs) > 2:
            result = self._insert(node, "Add", [result, node.inputs[2]])
        if len(rows_before(node)) > 1:
            shape = self._shape(node.outputs[0].shape or ())
            result = self._insert(node, "Reshape", [result, shape])
        take_place(self.graph, node, result)

    def _round(self, node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value]:
        """uint8 values of the rows that `node` reads, their scales [..., 1], and z."""
        x = rows = cast(ir.Value, node.inputs[0])
        if x not in self._rounded:
            *_, width = shape = [int(dim) for dim in x.shape or ()]
            before, axis = rows_before(node), len(shape) - 2
            if len(before) > 1:  # QuantizeLinear takes scales along one axis
                rows, axis = self._insert(node, "Reshape", [x, self._shape([-1, width])]), 0
            maker = x.producer()
            zero = ABOVE if maker is not None and maker.op_type in ONE_SIDED else MIDDLE
            scale = self._insert_scale(node, rows, zero)
            vector = self._insert(node, "Reshape", [scale, self._shape([math.prod(before)])])
            zeros = np.full(math.prod(before), zero, np.uint8)
            given = [rows, vector, self._constant(f"zeros_{zero}_{len(zeros)}", zeros)]
            levels = self._insert(node, "QuantizeLinear", given, axis=axis)
            middle = self._constant(f"zero_{zero}", np.uint8(zero))
            self._rounded[x] = levels, scale, middle
        return self._rounded[x]

    def _insert_scale(self, node: ir.Node, x: ir.Value, zero: int) -> ir.Value:
        """Scales [..., 1] of rows whose 0 is `zero`."""
        last = self._constant("last_axis", np.array([-1], np.int64))
        sides = [self._constant("smallest_scale", np.float32(SMALLEST_SCALE))]
        for operator, levels in (("ReduceMax", 255 - zero), ("ReduceMin", -zero)):
            step = self._constant(f"step_{levels}".replace("-", "m"), np.float32(1 / levels))
            furthest = self._insert(node, operator, [x, last])
            sides.append(self._insert(node, "Mul", [furthest, step]))
        return self._insert(node, "Max", sides)

    def _shape(self, dims: Sequence[Any]) -> ir.Value:
        sizes = [int(dim) for dim in dims]
        return self._constant("_".join(["shape", *map(str, sizes)]), np.array(sizes, np.int64))

    def _insert(
        self,
        node: ir.Node,
        operator: str,
        inputs: Sequence[ir.Value | None],
        domain: str = "",
        **attributes: int,
    ) -> ir.Value:
        """What a new node before `node` gives."""
        new = ir.node(operator, inputs, attributes=attributes, domain=domain)
        self.graph.insert_before(node, new)
        return new.outputs[0]

    def _constant(self, name: str, value: Any) -> ir.Value:
        """A constant of the graph, registered once."""
        name = f"integer_products_{name}"
        if name not in self.graph.initializers:
            register(self.graph, ir.tensor(np.asarray(value), name=name))
        return self.graph.initializers[name]


def rows_before(node: ir.Node) -> list[int]:
    """Sizes of the axes of rows that a product reads, those of 1 left out."""
    x = node.inputs[0]
    sizes = [] if x is None or x.shape is None else [int(dim) for dim in x.shape[:-1]]
    return [size for size in sizes if size > 1]


def take_place(graph: ir.Graph, node: ir.Node, result: ir.Value) -> None:
    """Let `result` be what the only output of `node` was, name and all, and remove the node."""
    old = node.outputs[0]
    result.shape, result.type, name = old.shape, old.type, old.name
    old.replace_all_uses_with(result, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    result.name = name


def register(graph: ir.Graph, tensor: ir.TensorProtocol) -> ir.Value:
    """A tensor as a constant of a graph."""
    value = ir.Value(
        name=tensor.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value
