"""The `portable` flavour's graphs in operators of opset 20, for TensorRT 10.3 on JetPack 6.

Its parser is older than Attention, RMSNormalization, RotaryEmbedding and TensorScatter. Each is
written here in operators that it knows, with constants for all that a static shape settles;
the other operators have gained nothing but types since. Weights of 4 bits need the blocks of opset
21, which it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as passes

from edgetok.errors import IncompatibleError
from edgetok.export.attention import FORBIDDEN

OPSET, IR_VERSION = 20, 9
OF_BLOCKS = (21, 10)  # opset and IR version in which DequantizeLinear knows blocks of 4 bits


def lower(model: ir.Model) -> ir.Model:
    """The same graph without the operators that came after opset 20.

    Raises:
        IncompatibleError: if one has a form that is not lowered here.
    """
    scribe = _Scribe(model.graph)
    for node in list(model.graph):
        if lower_node := _LOWERINGS.get(node.op_type):
            scribe.replace(node, lower_node)
    has_blocks = any("block_size" in node.attributes for node in model.graph)
    opset, model.ir_version = OF_BLOCKS if has_blocks else (OPSET, IR_VERSION)
    model.graph.opset_imports[""] = opset
    passes.RemoveUnusedNodesPass()(model)
    passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=False)(model)
    return model


class _Scribe:
    """Writes nodes before the one that they replace."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph, self._place = graph, next(iter(graph), None)
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._made = 0

    def replace(self, node: ir.Node, lower_node: Callable[[_Scribe, ir.Node], ir.Value]) -> None:
        self._place = node
        made, old = lower_node(self, node), node.outputs[0]
        made.shape, made.type = old.shape, old.type
        ir.convenience.replace_all_uses_with(old, made, replace_graph_outputs=True)
        name, old.name = old.name, None
        self._graph.remove(node, safe=True)
        made.name = name

    def write(self, op: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        """A node of one output."""
        return self.split(op, *inputs, outputs=1, **attributes)[0]

    def split(
        self, op: str, *inputs: ir.Value, outputs: int, **attributes: int
    ) -> Sequence[ir.Value]:
        node = ir.node(op, list(inputs), attributes=attributes, num_outputs=outputs)
        for value in node.outputs:
            self._made += 1
            value.name = f"lowered_{self._made}"
            value.dtype = inputs[0].dtype
        assert self._place is not None  # noqa: S101  there is a node to replace
        self._graph.insert_before(self._place, node)
        made: Sequence[ir.Value] = node.outputs
        return made

    def transpose(self, value: ir.Value, *axes: int) -> ir.Value:
        node = ir.node("Transpose", [value], attributes={"perm": list(axes)})
        self._made += 1
        node.outputs[0].name, node.outputs[0].dtype = f"lowered_{self._made}", value.dtype
        assert self._place is not None  # noqa: S101
        self._graph.insert_before(self._place, node)
        return node.outputs[0]

    def constant(self, array: npt.ArrayLike, dtype: type = np.float32) -> ir.Value:
        """An initializer, one for all places that want these numbers."""
        held: npt.NDArray[np.generic] = np.asarray(array, dtype)
        key = (str(held.dtype), held.shape, held.tobytes())
        if key not in self._constants:
            name = f"lowered_constant_{len(self._constants)}"
            tensor = ir.tensor(held, name=name)
            value = ir.Value(
                name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
            )
            self._graph.register_initializer(value)
            self._constants[key] = value
        return self._constants[key]

    def reshape(self, value: ir.Value, *sizes: int) -> ir.Value:
        made = self.write("Reshape", value, self.constant(sizes, np.int64))
        made.shape = ir.Shape(sizes)
        return made


def _lower_norm(scribe: _Scribe, node: ir.Node) -> ir.Value:
    """RMSNormalization over the last axis."""
    x, scale = _inputs(node, 2)
    rank = len(_sizes(x))
    if node.attributes.get_int("axis", -1) not in (-1, rank - 1):
        raise _refuse(node, "axis")
    square = scribe.write("Mul", x, x)
    mean = scribe.write("ReduceMean", square, scribe.constant([-1], np.int64), keepdims=1)
    epsilon = scribe.constant(node.attributes.get_float("epsilon", 1e-5))
    length = scribe.write("Sqrt", scribe.write("Add", mean, epsilon))
    return scribe.write("Mul", scribe.write("Div", x, length), scale)


def _lower_rotary(scribe: _Scribe, node: ir.Node) -> ir.Value:
    """RotaryEmbedding of rows [n, heads, S, H] by tables [P, H / 2] or of each row."""
    if node.attributes.get_int("interleaved", 0) or len(_sizes(node.inputs[0])) != 4:
        raise _refuse(node, "interleaved")
    x, cos, sin = _inputs(node, 3)
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        cos, sin = (scribe.write("Gather", table, node.inputs[3], axis=0) for table in (cos, sin))
    one = scribe.constant([1], np.int64)
    cos, sin = (scribe.write("Unsqueeze", table, one) for table in (cos, sin))
    width = _sizes(x)[3]
    rotated = node.attributes.get_int("rotary_embedding_dim", 0) or width
    sizes = [rotated // 2, rotated // 2] + ([width - rotated] if rotated < width else [])
    parts = scribe.split("Split", x, scribe.constant(sizes, np.int64), outputs=len(sizes), axis=-1)
    first, second, *rest = parts
    a = scribe.write("Sub", scribe.write("Mul", first, cos), scribe.write("Mul", second, sin))
    b = scribe.write("Add", scribe.write("Mul", first, sin), scribe.write("Mul", second, cos))
    return scribe.write("Concat", a, b, *rest, axis=-1)


def _lower_attention(scribe: _Scribe, node: ir.Node) -> ir.Value:
    """Attention of queries [n, heads, S, H] to keys and values [n, G, C, H], with a mask or not."""
    query, key, value = _inputs(node, 3)
    (batch, heads, rows, width), groups = _sizes(query), _sizes(key)[1]
    grouped = heads != groups
    if set(node.attributes) - {"scale"} or len(node.outputs) > 1 or (grouped and batch > 1):
        raise _refuse(node, ", ".join(node.attributes))
    query = scribe.write(
        "Mul", query, scribe.constant(node.attributes.get_float("scale", width**-0.5))
    )
    if grouped:  # the queries of a group beside each other, [G, heads / G, S, H]
        one = scribe.constant([1], np.int64)
        query = scribe.reshape(query, groups, heads // groups, rows, width)
        flat = [scribe.reshape(each, groups, *_sizes(each)[2:]) for each in (key, value)]
        key, value = (scribe.write("Unsqueeze", each, one) for each in flat)
    scores = scribe.write("MatMul", query, scribe.transpose(key, 0, 1, 3, 2))
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        scores = _masked(scribe, scores, node.inputs[3])
    rows_made = scribe.write("MatMul", scribe.write("Softmax", scores, axis=-1), value)
    return scribe.reshape(rows_made, batch, heads, rows, width) if grouped else rows_made


def _masked(scribe: _Scribe, scores: ir.Value, mask: ir.Value) -> ir.Value:
    if mask.dtype != ir.DataType.BOOL:
        return scribe.write("Add", scores, mask)
    node = scribe.write("Where", mask, scores, scribe.constant(FORBIDDEN))
    node.dtype = scores.dtype
    return node


def _lower_scatter(scribe: _Scribe, node: ir.Node) -> ir.Value:
    """TensorScatter of rows [1, G, S, H] into a buffer [1, G, C, H] from a place [1] on."""
    buffer, rows, start = _inputs(node, 3)
    batch, groups, count, _ = _sizes(rows)
    if batch != 1 or node.attributes.get_int("axis", -2) not in (2, -2):
        raise _refuse(node, "axis")
    if node.attributes.get_string("mode", "linear") != "linear":
        raise _refuse(node, "mode")
    places = np.zeros((groups, count, 3), np.int64)
    places[..., 1], places[..., 2] = np.arange(groups)[:, None], np.arange(count)
    moved = scribe.write("Mul", start, scribe.constant([0, 0, 1], np.int64))
    places_moved = scribe.write("Add", scribe.constant(places, np.int64), moved)
    updates = scribe.write("Squeeze", rows, scribe.constant([0], np.int64))
    return scribe.write("ScatterND", buffer, places_moved, updates)


_LOWERINGS: dict[str, Callable[[_Scribe, ir.Node], ir.Value]] = {
    "Attention": _lower_attention,
    "RMSNormalization": _lower_norm,
    "RotaryEmbedding": _lower_rotary,
    "TensorScatter": _lower_scatter,
}


def _inputs(node: ir.Node, count: int) -> list[ir.Value]:
    return [value for value in node.inputs[:count] if value is not None]


def _sizes(value: ir.Value | None) -> list[int]:
    """The constant shape of a value."""
    if value is None or value.shape is None:
        raise IncompatibleError("a value has no shape; report this as a bug")
    return [int(dim) for dim in value.shape]


def _refuse(node: ir.Node, what: str) -> IncompatibleError:
    return IncompatibleError(
        f"{node.op_type} with {what} has no form in opset {OPSET}; export with --flavour portable"
    )
