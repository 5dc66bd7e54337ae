"""The `portable` flavour: standard operators of opset 24 only, for TensorRT and other runtimes.

Attention is one standard `Attention`, activations stay single operators, and quantized weights are
constants after a `DequantizeLinear`. The decoder's cache is `portable_cache`'s.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch
from torch import Tensor

from edgetok.export.attention import TowerEmitter, merge_heads
from edgetok.export.lowering.blocks import choose_block
from edgetok.export.lowering.fusion import simplify
from edgetok.export.lowering.levels import round_levels
from edgetok.export.lowering.quantize import constant_matrix, is_quantizable
from edgetok.export.lowering.quantize_embedding import find_table

OPSET, IR_VERSION = 24, 12


class TowerAttention(TowerEmitter):
    """Full attention as one Attention."""

    def lower(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        return _attention(query, key, value, scaling)


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, bias: Tensor | None
) -> Tensor:
    """Full attention of one image, with a bias [n] on the keys: [heads, n, H] -> [n, heads * H]."""
    n = query.shape[1]
    mask = [] if bias is None else [bias.reshape(1, 1, 1, n).expand(1, 1, n, n)]
    return _attention(query[None], key[None], value[None], scaling, *mask)[0]


def _attention(query: Tensor, key: Tensor, value: Tensor, scaling: float, *mask: Tensor) -> Tensor:
    rows = torch.onnx.ops.symbolic(
        "Attention",
        (query, key, value, *mask),
        attrs={"scale": float(scaling)},
        dtype=query.dtype,
        shape=query.shape,
        version=OPSET,
    )
    return merge_heads(rows)


def lower(model: ir.Model, stage: str, bits: Mapping[str, int]) -> ir.Model:
    """From a traced stage to this flavour, its weights rounded to the bits of the stage, if any."""
    model.ir_version = IR_VERSION
    simplify(model)
    if "table" in bits:
        _dequantize_tables(model, bits["table"])
    if stage not in bits:
        return model
    return quantize(model, bits[stage], None if stage == "compress" else bits["head"])


def quantize(model: ir.Model, bits: int, head_bits: int | None = None) -> ir.Model:
    """Store the constant matrices of MatMul and Gemm as integers of 8 or 4 bits.

    `head_bits` are those of a matrix whose product is an output of the graph, if they differ.
    """
    done: dict[str, ir.Value] = {}
    for node in list(model.graph):
        weight = constant_matrix(node)
        if weight is not None and is_quantizable(weight):
            name = str(node.inputs[1].name)
            if name not in done:
                is_head = node.outputs[0].is_graph_output() and head_bits is not None
                own = head_bits if is_head and head_bits is not None else bits
                done[name] = _dequantized(model.graph, node, 1, weight, own)
            node.replace_input_with(1, done[name])
    passes.RemoveUnusedNodesPass()(model)
    return model


def _dequantize_tables(model: ir.Model, bits: int) -> None:
    """Let rows of token ids be gathered from a table after DequantizeLinear.

    Not before it, which would dequantize no other rows: TensorRT takes 8-bit constants nowhere
    else than there.
    """
    for node in list(model.graph):
        table = find_table(node)
        if table is not None:
            node.replace_input_with(0, _dequantized(model.graph, node, 0, table.T, bits))
    passes.RemoveUnusedNodesPass()(model)


def _dequantized(
    graph: ir.Graph, node: ir.Node, place: int, weight: npt.NDArray[np.float32], bits: int
) -> ir.Value:
    """A DequantizeLinear before `node` that makes its operand, whose values `weight` [K, N] has."""
    levels, scales = round_levels(weight, bits)
    transposed = node.op_type == "Gather" or bool(node.attributes.get_int("transB", 0))
    if transposed:  # as the node reads it: [N, K]
        levels, scales = np.ascontiguousarray(levels.T), np.ascontiguousarray(scales.T)
    name = node.inputs[place].name
    kind = ir.DataType.INT4 if bits == 4 else ir.DataType.INT8
    packed = ir.tensor(levels, dtype=kind, name=f"{name}_int{bits}")
    inputs = [_register(graph, packed)]
    if bits == 4:
        size = choose_block(len(weight), bits)
        attributes: dict[str, int] = {"axis": int(transposed), "block_size": size}
    else:
        attributes, scales = {"axis": int(not transposed)}, scales.reshape(-1)
    inputs.append(_register(graph, ir.tensor(scales, name=f"{name}_scales")))
    new = ir.node("DequantizeLinear", inputs, attributes=attributes)
    new.outputs[0].name = f"{name}_{'dequantized' if place else 'table'}"
    new.outputs[0].shape, new.outputs[0].type = ir.Shape(levels.shape), node.inputs[place].type
    graph.insert_before(node, new)
    return new.outputs[0]


def _register(graph: ir.Graph, tensor: ir.TensorProtocol) -> ir.Value:
    if tensor.name in graph.initializers:
        return graph.initializers[tensor.name]  # a table is the head's matrix
    value = ir.Value(
        name=tensor.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value
