"""Admission of graphs: what must hold before a runtime makes a session of one.

A graph is data from a stranger. Runtimes have followed its paths out of the directory, loaded
libraries that it named and allocated what it asked for, so each of these is settled here, in one
place, on the bytes that the runtime is then given.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from edgetok import limits
from edgetok.bundle.manifest import File, Stage, Tensor
from edgetok.bundle.operators import ALLOWED, SIZED_BY_OPERANDS
from edgetok.bundle.strict import shorten
from edgetok.bundle.tensors import Extent, extent, overlap_problems, tensor_problems
from edgetok.errors import BundleError

_SHOWN_PROBLEMS = 8
_SIZE_OPERAND_BYTES = 1024  # a shape has at most 8 dimensions
_DTYPES: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "uint8",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
    TensorProto.BOOL: "bool",
}
# Attributes that carry a graph or a tensor form that the format has no use for.
_REFUSED_ATTRIBUTES = {
    AttributeProto.GRAPH: "a sub-graph",
    AttributeProto.GRAPHS: "sub-graphs",
    AttributeProto.SPARSE_TENSOR: "a sparse tensor",
    AttributeProto.SPARSE_TENSORS: "sparse tensors",
    AttributeProto.TYPE_PROTO: "a type",
    AttributeProto.TYPE_PROTOS: "types",
}


def admit_graph(data: bytes, stage: Stage, files: Mapping[str, File]) -> None:
    """Check that a graph does what the manifest says and reads nothing else.

    Args:
        data: the bytes that a session will be made of.
        stage: what the manifest says about the graph.
        files: the manifest's files, whose names are safe paths and whose sizes were checked.

    Raises:
        BundleError: naming the file and the first problems.
    """
    if found := list(islice(_problems(data, stage, files), _SHOWN_PROBLEMS)):
        raise BundleError(f"{stage.file}: graph not admitted: {'; '.join(found)}")


def _problems(data: bytes, stage: Stage, files: Mapping[str, File]) -> Iterator[str]:
    """Cheap checks come first and end the search, so that a bomb costs no more than parsing."""
    model = _parse(data)
    if isinstance(model, str):
        yield model
        return
    if found := list(_model_problems(model)):
        yield from found
        return
    graph = model.graph
    yield from _interface_problems("input", graph.input, stage.inputs)
    yield from _interface_problems("output", graph.output, stage.outputs)
    yield from _name_problems(model)
    for value in graph.value_info:
        if isinstance(shape := _tensor_of(value), str):
            yield f"value {shorten(value.name)}: {shape}"
    tensors = list(_tensors(model))
    for tensor in tensors:
        yield from tensor_problems(tensor, files)
    external = (extent(t) for t in tensors if t.data_location == TensorProto.EXTERNAL)
    yield from overlap_problems(place for place in external if isinstance(place, Extent))
    constants = _constants(model)
    for node in graph.node:
        yield from _node_problems(node, constants)


def _parse(data: bytes) -> ModelProto | str:
    if len(data) > limits.GRAPH_BYTES:
        return f"{len(data)} bytes, more than the limit of {limits.GRAPH_BYTES}"
    if data[4:8] == b"ORTM":  # onnxruntime looks here first, and would read another format
        return "bytes of onnxruntime's own format"
    try:
        return onnx.load_model_from_string(data)  # never loads external data
    except DecodeError:
        return "is no ONNX protobuf, or nested too deep"


def _model_problems(model: ModelProto) -> Iterator[str]:
    """What makes looking at single nodes and tensors pointless."""
    graph = model.graph
    if len(graph.node) > limits.GRAPH_NODES:
        yield f"{len(graph.node)} nodes, more than {limits.GRAPH_NODES}"
    if len(graph.initializer) > limits.GRAPH_NODES:
        yield f"{len(graph.initializer)} tensors, more than {limits.GRAPH_NODES}"
    if model.functions:
        yield "has local functions; inline them"
    if model.training_info:
        yield "has training information"
    if graph.sparse_initializer:
        yield "has sparse tensors; store them dense"
    if any(entry.key == "ort_config" for entry in model.metadata_props):
        yield "carries session options in its metadata"
    yield from _opset_problems(model)
    if not _is_fully_understood(model):
        yield "has fields that this onnx does not know, so that they cannot be checked"


def _opset_problems(model: ModelProto) -> Iterator[str]:
    domains = Counter("" if o.domain == "ai.onnx" else o.domain for o in model.opset_import)
    for domain, count in domains.items():
        if domain not in ALLOWED:
            yield f"imports operators of domain `{shorten(domain)}`"
        elif count > 1:
            yield f"imports {count} versions of domain `{domain or 'ai.onnx'}`"
    if "" not in domains:
        yield "imports no version of the standard operators"


def _is_fully_understood(model: ModelProto) -> bool:
    """Another reader may know a field that this one skips, so nothing may be skipped."""
    size_bytes = model.ByteSize()
    model.DiscardUnknownFields()
    return bool(model.ByteSize() == size_bytes)


def _interface_problems(
    side: str, values: Iterable[ValueInfoProto], tensors: Iterable[Tensor]
) -> Iterator[str]:
    expected = {tensor.name: (tensor.dtype, tuple(tensor.shape)) for tensor in tensors}
    counts = Counter(value.name for value in values)
    for name in sorted(expected.keys() - counts.keys()):
        yield f"{side} {name} of the manifest is missing"
    for value in values:
        name = shorten(value.name)
        actual = _tensor_of(value)
        if isinstance(actual, str):
            yield f"{side} {name}: {actual}"
        elif counts[value.name] > 1:
            yield f"{side} {name} occurs {counts[value.name]} times"
        elif value.name not in expected:
            yield f"{side} {name} is not in the manifest"
        elif actual != expected[value.name]:
            yield f"{side} {name} is {actual}, but the manifest says {expected[value.name]}"


def _tensor_of(value: ValueInfoProto) -> tuple[str, tuple[int, ...]] | str:
    """Dtype and static shape of a value, or why it has none."""
    if value.type.WhichOneof("value") != "tensor_type":
        return "is no tensor"
    kind = value.type.tensor_type
    dims = kind.shape.dim
    if not kind.HasField("shape") or not all(dim.HasField("dim_value") for dim in dims):
        return "has no static shape"
    shape = tuple(dim.dim_value for dim in dims)
    if len(shape) > limits.GRAPH_TENSOR_RANK or min(shape, default=0) < 0 or _is_huge(shape):
        return f"has shape {shorten(str(list(shape)))}, beyond the limits"
    return _DTYPES.get(kind.elem_type, f"type {kind.elem_type}"), shape


def _is_huge(factors: Iterable[int]) -> bool:
    product = 1
    for factor in factors:
        product *= max(1, abs(factor))
        if product > limits.GRAPH_TENSOR_ELEMENTS:
            return True
    return False


def _name_problems(model: ModelProto) -> Iterator[str]:
    """Readers differ in which of two definitions wins, so there is only ever one."""
    graph = model.graph
    counts = Counter(tensor.name for tensor in graph.initializer)
    counts.update(value.name for value in graph.input)
    counts.update(output for node in graph.node for output in node.output if output)
    for name, count in counts.items():
        if not isinstance(name, str):
            yield f"name {shorten(name)} is not UTF-8"
        if count > 1:
            yield f"`{shorten(name)}` is defined {count} times"


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _constants(model: ModelProto) -> dict[str, list[int]]:
    """Values of the small constants that may say how large something is."""
    values = {t.name: _values(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and len(node.output) == len(node.attribute) == 1:
            values[node.output[0]] = _attribute_values(node.attribute[0])
    return {name: found for name, found in values.items() if found is not None}


def _attribute_values(attribute: AttributeProto) -> list[int] | None:
    if attribute.name == "value":
        return _values(attribute.t)
    if attribute.name == "value_int":
        return [attribute.i]
    return list(attribute.ints) if attribute.name == "value_ints" else None


def _values(tensor: TensorProto) -> list[int] | None:
    """The numbers of a small inline tensor, rounded up."""
    if tensor.data_location == TensorProto.EXTERNAL or tensor.ByteSize() > _SIZE_OPERAND_BYTES:
        return None
    try:
        array = numpy_helper.to_array(tensor)
        return [math.ceil(value) for value in array.ravel().tolist()]
    except (ValueError, TypeError, OverflowError, KeyError):
        return None


def _node_problems(node: NodeProto, constants: Mapping[str, list[int]]) -> Iterator[str]:
    name = f"node {shorten(node.name) or '(unnamed)'}"
    if node.op_type not in ALLOWED.get(node.domain, ()):
        operator = f"{node.domain or 'ai.onnx'}.{node.op_type}"
        yield f"{name}: operator `{shorten(operator)}` is not allowed"
    for attribute in node.attribute:
        if kind := _refused_kind(attribute):
            yield f"{name}: attribute {shorten(attribute.name)} holds {kind}"
    operands = SIZED_BY_OPERANDS.get(node.op_type, ())
    named = [node.input[i] for i in operands if i < len(node.input) and node.input[i]]
    for operand in named:
        if operand not in constants:
            yield f"{name}: {node.op_type} takes its size from `{shorten(operand)}`, no constant"
        elif _is_huge(constants[operand]):
            yield f"{name}: {node.op_type} makes more than {limits.GRAPH_TENSOR_ELEMENTS} elements"


def _refused_kind(attribute: AttributeProto) -> str | None:
    """Looks at the fields as well: `type` may lie about which one is set."""
    if attribute.ref_attr_name:
        return "a reference to a function's attribute"
    if attribute.HasField("g") or attribute.graphs:
        return "a sub-graph"
    if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
        return "a sparse tensor"
    return _REFUSED_ATTRIBUTES.get(attribute.type)
