"""Graph rewrites of the `ort` flavour: fewer, larger operators, the same numbers.

ONNX Runtime 1.31 fuses none of these by itself. A decode step of a small decoder spends half its
time in small nodes before them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript.rewriter import pattern
from onnxscript.rewriter.rules import common

from edgetok.export.lowering.names import CONTRIB


def fuse(model: ir.Model) -> ir.Model:
    """Apply every rewrite; the graph keeps its inputs, outputs and weights' values."""
    model.graph.opset_imports[CONTRIB] = 1
    _ACTIVATIONS.apply_to_model(model)
    simplify(model)
    _SKIP_NORM.apply_to_model(model)
    pack_attention(model.graph)
    pack_rotated(model.graph)
    passes.RemoveUnusedNodesPass()(model)
    return model


def simplify(model: ir.Model) -> ir.Model:
    """Drop transposes and reshapes that cancel out; adds no operator, so any flavour may do it."""
    _TRANSPOSES.apply_to_model(model)
    _drop_transposes(model.graph)
    passes.IdentityEliminationPass()(model)  # what is left of transposes that several nodes read
    infer_shapes(model)
    _drop_reshapes(model.graph)
    passes.RemoveUnusedNodesPass()(model)
    return model


def infer_shapes(model: ir.Model) -> None:
    """Give every value its shape.

    Without propagation of data: it takes the vectors of MCTF's graphs for shapes and gives up, and
    nothing of ours computes a shape.
    """
    passes.ShapeInferencePass(strict_mode=False, data_prop=False)(model)


# --- pattern rules -------------------------------------------------------------------------------


def _silu(op, x):  # type: ignore[no-untyped-def]
    return op.Mul(x, op.Sigmoid(x))


def _fused_silu(op, x):  # type: ignore[no-untyped-def]
    return op.QuickGelu(x, alpha=1.0, _domain=CONTRIB)


def _quick_gelu(op, x, alpha):  # type: ignore[no-untyped-def]
    return op.Mul(x, op.Sigmoid(op.Mul(x, alpha)))


def _fused_quick_gelu(op, x, alpha):  # type: ignore[no-untyped-def]
    return op.QuickGelu(x, alpha=float(alpha.const_value.numpy()), _domain=CONTRIB)


def _is_scalar(context, alpha, **_):  # type: ignore[no-untyped-def]
    return alpha.const_value is not None and alpha.const_value.size == 1


def _skip_norm(op, x, skip, weight, epsilon):  # type: ignore[no-untyped-def]
    total = op.Add(x, skip)
    return op.SimplifiedLayerNormalization(total, weight, epsilon=epsilon), total


def _fused_skip_norm(op, x, skip, weight, epsilon):  # type: ignore[no-untyped-def]
    normed, _, _, total = op.SkipSimplifiedLayerNormalization(
        x, skip, weight, epsilon=epsilon, _domain=CONTRIB, _outputs=4
    )
    return normed, total


def _same_shape(context, x, skip, **_):  # type: ignore[no-untyped-def]
    return x.shape is not None and len(x.shape) == 3 and x.shape == skip.shape


_TRANSPOSES = pattern.RewriteRuleSet([common.transpose_transpose_rule, common.no_op_transpose_rule])
_ACTIVATIONS = pattern.RewriteRuleSet(
    [
        pattern.RewriteRule(_quick_gelu, _fused_quick_gelu, _is_scalar),
        pattern.RewriteRule(_silu, _fused_silu),
    ]
)
_SKIP_NORM = pattern.RewriteRuleSet(
    [pattern.RewriteRule(_skip_norm, _fused_skip_norm, _same_shape)]
)


# --- rewrites that need arithmetic on weights ----------------------------------------------------


def _drop_transposes(graph: ir.Graph) -> None:
    """Remove transposes that take another one back, which the rules leave where others read it."""
    for node in list(graph):
        before = node.inputs[0].producer() if node.op_type == "Transpose" else None
        if before is None or before.op_type != "Transpose":
            continue
        first, second = (list(one.attributes["perm"].as_ints()) for one in (before, node))
        if [first[axis] for axis in second] == sorted(first):
            node.outputs[0].replace_all_uses_with(before.inputs[0], replace_graph_outputs=True)
            graph.remove(node, safe=True)


def _drop_reshapes(graph: ir.Graph) -> None:
    """Remove reshapes that cancel out: static shapes make that a comparison."""
    for node in list(graph):
        if node.op_type != "Reshape":
            continue
        source, result = node.inputs[0], node.outputs[0]
        while (producer := source.producer()) is not None and producer.op_type == "Reshape":
            source = producer.inputs[0]
            node.replace_input_with(0, source)
        if source.shape is not None and source.shape == result.shape:
            result.replace_all_uses_with(source, replace_graph_outputs=True)
            graph.remove(node, safe=True)


def pack_attention(graph: ir.Graph) -> None:
    """Give each GroupQueryAttention one packed projection instead of three.

    What else reads a query, key or value reads a part of the packed one: probes of a prefill that
    reduces, and rotary embedding where the operator cannot do it.
    """
    for node in list(graph):
        if node.op_type != "GroupQueryAttention":
            continue
        linears = [_find_linear(_unrotated(value)) for value in node.inputs[:3]]
        if any(linear is None for linear in linears):
            continue
        sources = {linear.source for linear in linears}  # type: ignore[union-attr]
        biased = {linear.bias is not None for linear in linears}  # type: ignore[union-attr]
        if len(sources) == 1 and len(biased) == 1:
            _pack(graph, node, linears)  # type: ignore[arg-type]


def pack_rotated(graph: ir.Graph) -> None:
    """The same where attention is single operators: so that all stages have one packed weight.

    What is rotated is a query or a key; the third that reads the same rows makes the value.
    """
    found: dict[ir.Value, list[_Linear]] = {}
    for node in graph:
        linear = _find_linear(node.inputs[0]) if node.op_type == "RotaryEmbedding" else None
        if linear is not None:
            found.setdefault(linear.source, []).append(linear)
    for source, rotated in found.items():
        readers = [_find_result(node) for node in source.consumers() if node.op_type == "MatMul"]
        known = {linear.result for linear in rotated}
        linears = [*rotated, *(x for x in readers if x is not None and x.result not in known)]
        if len(linears) == 3 and len({linear.bias is not None for linear in linears}) == 1:
            _pack(graph, rotated[0].result.producer(), linears)


class _Linear(NamedTuple):
    """`result` as source @ weight (+ bias) with constant weights."""

    result: ir.Value
    source: ir.Value
    weight: ir.Value
    bias: ir.Value | None


def _unrotated(value: ir.Value | None) -> ir.Value | None:
    node = value.producer() if value is not None else None
    return node.inputs[0] if node is not None and node.op_type == "RotaryEmbedding" else value


def _find_linear(value: ir.Value | None) -> _Linear | None:
    node = value.producer() if value is not None else None
    bias = None
    if node is not None and node.op_type == "Add":
        operands = sorted(node.inputs, key=lambda v: v.const_value is not None)
        bias, node = operands[1], operands[0].producer()
        if bias is None or bias.const_value is None:
            return None
    if node is None or node.op_type != "MatMul" or node.inputs[1].const_value is None:
        return None
    return _Linear(value, node.inputs[0], node.inputs[1], bias)


def _find_result(node: ir.Node) -> _Linear | None:
    """The linear that a product is the beginning or the whole of."""
    result = node.outputs[0]
    behind = list(result.consumers())
    biased = len(behind) == 1 and _find_linear(behind[0].outputs[0])
    return biased if biased and biased.bias is not None else _find_linear(result)


def _pack(graph: ir.Graph, node: ir.Node, linears: list[_Linear]) -> None:
    name = node.outputs[0].name
    weight = _join(graph, f"{name}_qkv_weight", [linear.weight for linear in linears])
    matmul = ir.node("MatMul", [linears[0].source, weight])
    added = [matmul]
    if linears[0].bias is not None:
        bias = _join(graph, f"{name}_qkv_bias", [linear.bias for linear in linears])
        added.append(ir.node("Add", [matmul.outputs[0], bias]))
    for step, new in enumerate(added):
        new.outputs[0].name = f"{name}_qkv_{step}"
    source = linears[0].source.shape
    packed = added[-1].outputs[0]
    packed.dtype = ir.DataType.FLOAT
    packed.shape = ir.Shape([*source[:-1], weight.shape[-1]])
    if all(value is linear.result for value, linear in zip(node.inputs, linears, strict=False)):
        for position, value in enumerate([packed, None, None]):
            node.replace_input_with(position, value)
    graph.insert_before(linears[0].result.producer(), added)
    _split(graph, added[-1], linears)


def _split(graph: ir.Graph, packed: ir.Node, linears: list[_Linear]) -> None:
    """Let what still reads the separate results read parts of the packed one."""
    if not any(linear.result.uses() for linear in linears):
        return
    name = packed.outputs[0].name
    sizes = np.array([linear.weight.shape[-1] for linear in linears], np.int64)
    node = ir.node(
        "Split",
        [packed.outputs[0], _constant(graph, f"{name}_sizes", sizes)],
        attributes={"axis": -1},
        num_outputs=3,
    )
    for part, linear, size in zip(node.outputs, linears, sizes, strict=True):
        part.name, part.dtype = f"{linear.result.name}_of_packed", ir.DataType.FLOAT
        part.shape = ir.Shape([*packed.outputs[0].shape[:-1], int(size)])
        linear.result.replace_all_uses_with(part)
    graph.insert_after(packed, node)


def _join(graph: ir.Graph, name: str, values: list[ir.Value | None]) -> ir.Value:
    parts = [value.const_value.numpy() for value in values]  # type: ignore[union-attr]
    return _constant(graph, name, np.concatenate(parts, axis=-1))


def _constant(graph: ir.Graph, name: str, array: Any) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value
