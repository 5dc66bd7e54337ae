"""The embedding table in 8 or 4 bits: rows are gathered first, then dequantized.

`ort` graphs have com.microsoft's GatherBlockQuantized, and for a table that is the head as well a
Gather of columns of the head's very matrix, so that it is stored once. `portable` graphs have a
Gather after DequantizeLinear, since TensorRT takes 8-bit constants nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as passes

from edgetok import names
from edgetok.export.lowering.levels import round_levels
from edgetok.export.lowering.names import CONTRIB
from edgetok.export.lowering.quantize import is_quantizable, quantize_matrix

_IDS = (names.TOKEN_ID, names.TOKEN_IDS)


def find_table(node: ir.Node) -> npt.NDArray[np.float32] | None:
    """The table [V, D] of a Gather of rows by token ids, if it is large enough, else None."""
    if node.op_type != "Gather" or node.inputs[0] is None or node.inputs[1] is None:
        return None
    tensor = node.inputs[0].const_value
    if node.inputs[1].name not in _IDS or tensor is None or len(tensor.shape) != 2:
        return None
    table: npt.NDArray[np.float32] = tensor.numpy()
    return table if is_quantizable(table.T) else None


def gather_blocks(model: ir.Model, bits: int) -> None:
    """Replace every lookup of token ids by GatherBlockQuantized, in place."""
    for node in list(model.graph):
        table = find_table(node)
        if table is not None:
            _replace(model.graph, node, table, bits)
            model.graph.opset_imports[CONTRIB] = 1
    passes.RemoveUnusedNodesPass()(model)


def gather_columns(model: ir.Model) -> None:
    """Replace every lookup of token ids by one in int8 columns [D, V], a scale each, in place."""
    for node in list(model.graph):
        table = find_table(node)
        if table is not None:
            _replace_by_columns(model.graph, node, table)
    passes.RemoveUnusedNodesPass()(model)


def _replace_by_columns(graph: ir.Graph, node: ir.Node, table: npt.NDArray[np.float32]) -> None:
    levels, scales = round_levels(table.T, 8)
    name, ids = str(node.inputs[0].name), node.inputs[1]
    columns = ir.node(
        "Gather", [_constant(graph, f"{name}_int8", levels), ids], attributes={"axis": 1}
    )
    rank = len(node.outputs[0].shape or ())
    turned = ir.node("Transpose", columns.outputs, attributes={"perm": [*range(1, rank), 0]})
    floats = ir.node("Cast", turned.outputs, attributes={"to": ir.DataType.FLOAT})
    steps = ir.node("Gather", [_constant(graph, f"{name}_steps", scales.reshape(-1, 1)), ids])
    rows = ir.node("Mul", [floats.outputs[0], steps.outputs[0]])
    _put_in_place(graph, node, [columns, turned, floats, steps, rows])


def _replace(graph: ir.Graph, node: ir.Node, table: npt.NDArray[np.float32], bits: int) -> None:
    packed, scales = quantize_matrix(table.T, bits)
    (words, blocks, block_bytes), block = packed.shape, packed.shape[2] * 8 // bits
    name, width = str(node.inputs[0].name), table.shape[1]
    rows = packed.reshape(words, blocks * block_bytes)
    made = ir.node(
        "GatherBlockQuantized",
        [
            _constant(graph, f"{name}_q{bits}", rows),
            node.inputs[1],
            _constant(graph, f"{name}_scales", scales),
        ],
        attributes={"bits": bits, "block_size": block, "quantize_axis": 1, "gather_axis": 0},
        domain=CONTRIB,
    )
    added = [made]
    if blocks * block > width:  # the last block is padded
        ends = {"starts": [0], "ends": [width], "axes": [-1]}
        given = [_constant(graph, f"{name}_{k}", np.asarray(v, np.int64)) for k, v in ends.items()]
        made.outputs[0].name = f"{node.outputs[0].name}_padded"
        added.append(ir.node("Slice", [made.outputs[0], *given]))
    _put_in_place(graph, node, added)


def _put_in_place(graph: ir.Graph, node: ir.Node, added: Sequence[ir.Node]) -> None:
    """Put nodes where `node` was; the last one makes what it made."""
    old, new = node.outputs[0], added[-1].outputs[0]
    new.shape, new.type = old.shape, old.type
    graph.insert_before(node, added)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    new.name = old.name


def _constant(graph: ir.Graph, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    own = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=own.shape, type=ir.TensorType(own.dtype), const_value=own)
    graph.register_initializer(value)
    return value
