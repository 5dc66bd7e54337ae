"""Graphs that differ in their number of rows alone, joined into one that takes any of them.

Rungs of a ladder have a prefill graph each, over the same weights. An engine of one such graph
holds all of its weights, so four engines would hold them four times. Here what differs between the
graphs of two rungs is found by comparing them: shapes of a Reshape, which are computed instead, and
constants such as masks and positions, which become inputs that the runtime fills once per rung. The
joined graph computes exactly what each of them does; where more differs, there is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper

Shape = tuple[int, ...]
Reader = Callable[[TensorProto], NDArray[np.generic]]

_CONSTANTS_BYTES = 256 << 20  # masks of 64 rungs of 2000 rows; more is better kept in engines
# Operators whose operands of these places are numbers to compute with, not shapes or axes.
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Less", "LessOrEqual", "Equal", "And", "Or", "Where")
_DATA_OPERANDS = {
    **dict.fromkeys(_ELEMENTWISE, (0, 1, 2)),
    "Attention": (3,),
    "Gather": (1,),
    "MatMul": (0, 1),
    "RotaryEmbedding": (3,),
    "ScatterND": (1, 2),
    "TensorScatter": (2,),
}


@dataclass(frozen=True)
class JoinedGraph:
    """One graph for several rungs.

    Args:
        model: its dimensions that differ are named after their values on the rungs.
        shapes: per rung the shape of every input.
        constants: per rung the values of the inputs that no rung's own graph has.
    """

    model: ModelProto
    shapes: list[dict[str, Shape]]
    constants: list[dict[str, NDArray[np.generic]]]


def join_rungs(models: Sequence[ModelProto], read: Reader) -> JoinedGraph | None:
    """One graph that computes what each of these does; None where more than rows differs.

    Args:
        models: graphs of the same stage, one per rung.
        read: the values of a tensor, wherever they are stored.
    """
    if len(models) == 1:
        shapes = {value.name: dims_of(value) for value in models[0].graph.input}
        return JoinedGraph(_copy(models[0]), [shapes], [{}])
    if not _have_same_nodes(models):
        return None
    differing = _find_differing(models)
    reshapes = _resolve_reshapes(models, differing, read)
    others = {name for name in differing if not _feeds_reshapes_alone(models[0].graph, name)}
    if reshapes is None or not all(_is_data(models[0].graph, name) for name in others):
        return None
    constants = [
        {t.name: read(t) for t in model.graph.initializer if t.name in others} for model in models
    ]
    if not _may_vary(constants):
        return None
    return _join(models, differing, reshapes, constants)


def dims_of(value: ValueInfoProto) -> Shape:
    """The constant dimensions of a graph's input, output or inner value."""
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _copy(model: ModelProto) -> ModelProto:
    made = ModelProto()
    made.CopyFrom(model)
    return made


def _have_same_nodes(models: Sequence[ModelProto]) -> bool:
    """Whether all but the contents of initializers and the dimensions of values is alike."""

    def skeleton(graph: GraphProto) -> tuple[object, ...]:
        nodes = [node.SerializeToString(deterministic=True) for node in graph.node]
        ends = [(v.name, v.type.tensor_type.elem_type) for v in [*graph.input, *graph.output]]
        held = {(t.name, t.data_type, len(t.dims)) for t in graph.initializer}
        return nodes, ends, held

    first = skeleton(models[0].graph)
    return all(skeleton(model.graph) == first for model in models[1:])


def _find_differing(models: Sequence[ModelProto]) -> set[str]:
    """Initializers that are not the same bytes in every graph."""
    held = [{t.name: t.SerializeToString() for t in model.graph.initializer} for model in models]
    return {name for name in held[0] if any(each[name] != held[0][name] for each in held)}


def _feeds_reshapes_alone(graph: GraphProto, name: str) -> bool:
    return all(op == "Reshape" and place == 1 for op, place in _uses(graph, name))


def _is_data(graph: GraphProto, name: str) -> bool:
    return all(place in _DATA_OPERANDS.get(op, ()) for op, place in _uses(graph, name))


def _uses(graph: GraphProto, name: str) -> list[tuple[str, int]]:
    nodes = [node for node in graph.node if name in node.input]
    return [(n.op_type, i) for n in nodes for i, given in enumerate(n.input) if given == name]


def _may_vary(constants: Sequence[dict[str, NDArray[np.generic]]]) -> bool:
    """Whether they have the same rank on every rung, and are small enough to be held by each."""
    ranks = {tuple(array.ndim for array in each.values()) for each in constants}
    total = sum(array.nbytes for each in constants for array in each.values())
    return len(ranks) == 1 and total <= _CONSTANTS_BYTES


def _resolve_reshapes(
    models: Sequence[ModelProto], differing: set[str], read: Reader
) -> dict[str, list[int]] | None:
    """For each Reshape to a differing shape, by its output, one shape that does for all rungs.

    A dimension that differs is computed (-1) or, if there are two, taken from the input (0).
    """
    made, shapes = {}, [_inner_shapes(model) for model in models]
    for node in models[0].graph.node:
        if node.op_type != "Reshape" or node.input[1] not in differing:
            continue
        before, behind = ([s.get(n) for s in shapes] for n in (node.input[0], node.output[0]))
        shape = _one_shape(before, behind)
        if shape is None:
            return None
        made[node.output[0]] = shape
    return made


def _one_shape(before: Sequence[Shape | None], behind: Sequence[Shape | None]) -> list[int] | None:
    """What reshapes each of `before` into the one of `behind`; None if nothing does.

    >>> _one_shape([(1, 68, 64), (1, 72, 64)], [(1, 68, 4, 16), (1, 72, 4, 16)])
    [1, -1, 4, 16]
    """
    if any(s is None or 0 in s for s in [*before, *behind]):
        return None
    found, free = [], True
    for axis, sizes in enumerate(zip(*[s for s in behind if s is not None], strict=True)):
        own = [s[axis] if s is not None and axis < len(s) else None for s in before]
        if len(set(sizes)) == 1:
            found.append(sizes[0])
        elif own == list(sizes) and not free:
            found.append(0)
        elif free:
            found.append(-1)
            free = False
        else:
            return None
    return found


def _inner_shapes(model: ModelProto) -> dict[str, Shape]:
    graph = model.graph
    values = [*graph.input, *graph.output, *graph.value_info]
    shapes = {value.name: dims_of(value) for value in values}
    return shapes | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}


def _join(
    models: Sequence[ModelProto],
    differing: set[str],
    reshapes: dict[str, list[int]],
    constants: list[dict[str, NDArray[np.generic]]],
) -> JoinedGraph:
    model, first = _copy(models[0]), models[0].graph
    shapes = [{v.name: dims_of(v) for v in each.graph.input} for each in models]
    for rung, arrays in zip(shapes, constants, strict=True):
        rung.update({name: array.shape for name, array in arrays.items()})
    outputs = [{v.name: dims_of(v) for v in each.graph.output} for each in models]
    graph = model.graph
    del graph.value_info[:]  # they were one rung's
    kept = [tensor for tensor in first.initializer if tensor.name not in differing]
    types = {tensor.name: tensor.data_type for tensor in first.initializer}
    del graph.initializer[:]
    graph.initializer.extend(kept)
    _set_shapes(graph, reshapes)
    ends = [_named(v.name, v.type.tensor_type.elem_type, shapes) for v in first.input]
    ends += [_named(name, types[name], shapes) for name in constants[0]]
    last = [_named(v.name, v.type.tensor_type.elem_type, outputs) for v in first.output]
    for values, own in ((ends, graph.input), (last, graph.output)):
        del own[:]
        own.extend(values)
    return JoinedGraph(model, shapes, constants)


def _set_shapes(graph: GraphProto, reshapes: dict[str, list[int]]) -> None:
    for node in graph.node:
        shape = reshapes.get(node.output[0])
        if shape is not None:
            node.input[1] = f"{node.output[0]}/rows"
            del node.attribute[:]  # `allowzero`, with which 0 is no dimension of the input
            tensor = helper.make_tensor(node.input[1], TensorProto.INT64, [len(shape)], shape)
            graph.initializer.append(tensor)


def _named(name: str, dtype: int, shapes: Sequence[dict[str, Shape]]) -> ValueInfoProto:
    """A value whose dimensions that differ have the same name wherever they differ alike."""
    dims: list[int | str] = []
    for sizes in zip(*[each[name] for each in shapes], strict=True):
        dims.append(sizes[0] if len(set(sizes)) == 1 else "n" + "_".join(map(str, sizes)))
    return helper.make_tensor_value_info(name, dtype, dims)


def list_weights(model: ModelProto) -> list[TensorProto]:
    """Initializers whose bytes lie in another file."""
    return [t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL]


def count_bytes(tensor: TensorProto) -> int:
    """Of a tensor's values."""
    bits = 4 if tensor.data_type in (TensorProto.INT4, TensorProto.UINT4) else None
    size = bits or 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int((math.prod(tensor.dims) * size + 7) // 8)
