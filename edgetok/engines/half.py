"""A graph whose matrix products are computed in half precision; all else stays float32.

Engines are strongly typed: the precision of an operation is that of its operands. So operands of
products are cast before them and results after them, and TensorRT folds the casts of weights
into the weights and most others into the operations beside them. Norms, softmax, scores of
compressors and what they sort by stay float32, so tokens are chosen from numbers that were not
rounded here. Rows of a float32 cache are held in half precision, in and out of the graph.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

HALVES: Final = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
# Operands of these operators that are floats; a mask of Attention may be one of booleans instead.
_PRODUCTS = {
    "MatMul": (0, 1),
    "Gemm": (0, 1, 2),
    "Conv": (0, 1, 2),
    "Attention": (0, 1, 2, 3),
    "TensorScatter": (0, 1),
}
_FLOAT = TensorProto.FLOAT


def halve(model: ModelProto, precision: str, cache: Iterable[str]) -> ModelProto:
    """The same graph with products in a type of `HALVES`.

    Args:
        cache: float32 inputs and outputs that are rows of a cache, and become half precision too.
    """
    half = HALVES[precision]
    made = ModelProto()
    made.CopyFrom(model)
    graph, rows = made.graph, frozenset(cache)
    booleans = _list_booleans(graph)
    nodes = _cast_cache(graph, rows, half, [_copy(node) for node in graph.node])
    nodes, weights = _halve_scales(nodes, half)
    kept, held = booleans | weights, {_single(name) for name in rows}
    nodes = [
        each
        for node in nodes
        for each in ([node] if _keeps(node, held) else _cast_around(node, half, kept))
    ]
    _replace_nodes(graph, _drop_pairs(nodes, half, {v.name for v in graph.output}))
    del graph.value_info[:]
    return made


def _list_booleans(graph: GraphProto) -> set[str]:
    values = [*graph.input, *graph.value_info]
    found = {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.BOOL}
    found |= {t.name for t in graph.initializer if t.data_type == TensorProto.BOOL}
    made = ("LessOrEqual", "Less", "Equal", "And", "Or", "Not", "Greater", "GreaterOrEqual")
    found |= {output for node in graph.node if node.op_type in made for output in node.output}
    grown = True
    while grown:  # through operators that only move values
        moved = {
            output
            for node in graph.node
            if node.op_type in ("Unsqueeze", "Reshape", "Expand") and node.input[0] in found
            for output in node.output
        }
        grown, found = not moved <= found, found | moved
    return found


def _cast_cache(
    graph: GraphProto, rows: frozenset[str], half: int, nodes: list[NodeProto]
) -> list[NodeProto]:
    """Halve the ends of the graph that are rows of the cache."""
    before, behind = [], []
    for value in graph.input:
        if value.name in rows:
            value.type.tensor_type.elem_type = half
            before.append(_cast(value.name, _single(value.name), _FLOAT))
    for value in graph.output:
        if value.name in rows:
            value.type.tensor_type.elem_type = half
            behind.append(_cast(_single(value.name), value.name, half))
    for node in nodes:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = _single(name) if name in rows else name
    return [*before, *nodes, *behind]


def _single(name: str) -> str:
    return f"{name}/float32"


def _keeps(node: NodeProto, held: set[str]) -> bool:
    """Whether rows are scattered into a buffer that stays float32, such as the scales of others."""
    return node.op_type == "TensorScatter" and node.input[0] not in held


def _halve_scales(nodes: list[NodeProto], half: int) -> tuple[list[NodeProto], set[str]]:
    """Let weights that only products read come out of DequantizeLinear in half precision.

    A cast after it would stand between the weight and the kernel that reads its few bits. Returns
    the nodes, and the names of such weights.
    """
    others = {name for node in nodes if node.op_type not in _PRODUCTS for name in node.input}
    found, made = set(), []
    for node in nodes:
        if node.op_type == "DequantizeLinear" and node.output[0] not in others:
            cast = _cast(node.input[1], f"{node.output[0]}/scales", half)
            node.input[1] = cast.output[0]
            found.add(node.output[0])
            made.append(cast)
        made.append(node)
    return made, found


def _cast_around(node: NodeProto, half: int, kept: set[str]) -> list[NodeProto]:
    """A product between casts of its operands, but those to be kept, and of its result."""
    if node.op_type not in _PRODUCTS:
        return [node]
    before = []
    for place in _PRODUCTS[node.op_type]:
        if place >= len(node.input) or not node.input[place] or node.input[place] in kept:
            continue
        cast = _cast(node.input[place], f"{node.output[0]}/operand_{place}", half)
        node.input[place] = cast.output[0]
        before.append(cast)
    result = node.output[0]
    node.output[0] = f"{result}/half"
    return [*before, node, _cast(node.output[0], result, _FLOAT)]


def _drop_pairs(nodes: list[NodeProto], half: int, outputs: set[str]) -> list[NodeProto]:
    """Without casts to float32 and straight back, which change nothing, nor any left unused."""
    singles = {n.output[0]: n.input[0] for n in nodes if _casts_to(n, _FLOAT)}
    renamed: dict[str, str] = {}
    kept = []
    for node in nodes:
        if _casts_to(node, half) and node.input[0] in singles:
            renamed[node.output[0]] = singles[node.input[0]]
        else:
            kept.append(node)
    # An output keeps its name, so what is cast into it takes that name instead.
    turned = {inner: outer for outer, inner in renamed.items() if outer in outputs}
    for node in kept:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                name = renamed.get(name, name)
                names[place] = turned.get(name, name)
    used = outputs | {name for node in kept for name in node.input}
    return [n for n in kept if not _casts_to(n, _FLOAT) or n.output[0] in used]


def _casts_to(node: NodeProto, dtype: int) -> bool:
    return node.op_type == "Cast" and node.name.startswith("edgetok/") and _target(node) == dtype


def _target(node: NodeProto) -> int:
    return int(next(attribute.i for attribute in node.attribute if attribute.name == "to"))


def _cast(source: str, name: str, dtype: int) -> NodeProto:
    return helper.make_node("Cast", [source], [name], name=f"edgetok/{name}", to=dtype)


def _copy(node: NodeProto) -> NodeProto:
    made = NodeProto()
    made.CopyFrom(node)
    return made


def _replace_nodes(graph: GraphProto, nodes: list[NodeProto]) -> None:
    del graph.node[:]
    graph.node.extend(nodes)
