"""Graphs that ask for more than a bundle may, each named for what is wrong.

All of them carry correct hashes: the one who tampers can write those as well.
"""

import time

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, helper

from edgetok import limits
from edgetok.bundle.admission import admit_graph
from edgetok.errors import BundleError

node = helper.make_node


def _set_external(key: str, value: str):
    """Edit of the entry `key` of the tower's only external tensor."""

    def edit(model, tiny) -> None:
        (tensor,) = (t for t in model.graph.initializer if t.name == "bias")
        tensor.CopyFrom(tiny.external("bias", **{key: value}))

    return edit


def _bias(change):
    def edit(model, tiny) -> None:
        change(next(t for t in model.graph.initializer if t.name == "bias"))

    return edit


def _add(*nodes):
    return lambda model, tiny: model.graph.node.extend(nodes)


def _floats(count: int, name: str = "big") -> TensorProto:
    return helper.make_tensor(name, TensorProto.FLOAT, [count], bytes(4 * count), raw=True)


def _subgraph() -> onnx.GraphProto:
    out = helper.make_tensor_value_info("o", TensorProto.FLOAT, [1])
    return helper.make_graph([node("Identity", ["features"], ["o"])], "inner", [], [out])


def _external_in_attribute(model, tiny) -> None:
    model.graph.node.append(
        node("Constant", [], ["c"], value=tiny.external("bias", location="../secret"))
    )


def _external_in_attribute_list(model, tiny) -> None:
    attribute = AttributeProto(name="many", type=AttributeProto.TENSORS)
    attribute.tensors.append(tiny.external("bias", location="/etc/passwd"))
    model.graph.node.append(node("Identity", ["x"], ["c"]))
    model.graph.node[-1].attribute.append(attribute)


def _sparse(model, tiny) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(tiny.external("bias", location="../x"))


def _function(model, tiny) -> None:
    model.functions.append(
        helper.make_function(
            "", "Add", ["a", "b"], ["c"], [node("Mul", ["a", "b"], ["c"])], model.opset_import
        )
    )


def _hidden_subgraph(model, tiny) -> None:
    """The attribute says that it holds an integer."""
    model.graph.node.append(node("Identity", ["x"], ["c"], k=1))
    model.graph.node[-1].attribute[0].g.CopyFrom(_subgraph())


def _overlapping(model, tiny) -> None:
    tensor = tiny.external("bias", length="64")
    del tensor.dims[:]
    tensor.dims.append(16)
    tensor.name = "part"
    model.graph.initializer.append(tensor)


def _dynamic_input(model, tiny) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"


def _dynamic_inner(model, tiny) -> None:
    model.graph.value_info.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 12]))


def _huge_inner(model, tiny) -> None:
    model.graph.value_info.append(
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [2**62] * 3)
    )


def _session_options(model, tiny) -> None:
    model.metadata_props.add(key="ort_config", value='{"session_options": {}}')


def _expand(*shape: int):
    def edit(model, tiny) -> None:
        model.graph.initializer.append(tiny.ints("huge", *shape))
        model.graph.node.append(node("Expand", ["x", "huge"], ["y"]))

    return edit


def _constant_of_shape(model, tiny) -> None:
    model.graph.node.append(node("Constant", [], ["n"], value_ints=[2**20, 2**20]))
    model.graph.node.append(node("ConstantOfShape", ["n"], ["y"]))


# Name -> (edit of the tower's graph, what the message says).
GRAPHS = {
    # External data: where the bytes of a tensor lie.
    "location upwards": (
        _set_external("location", "../model.bin"),
        "`../model.bin`, which the man",
    ),
    "location absolute": (_set_external("location", "/etc/passwd"), "`/etc/passwd`, which"),
    "location through a folder": (
        _set_external("location", "weights/../weights/model.bin"),
        "which",
    ),
    "location with a dot": (_set_external("location", "./weights/model.bin"), "which the manifest"),
    "location with two slashes": (_set_external("location", "weights//model.bin"), "which the man"),
    "location with NUL": (_set_external("location", "weights/model.bin\0.png"), r"bin\\x00\.png"),
    "location empty": (_set_external("location", ""), "which the manifest does not list"),
    "location is the manifest": (_set_external("location", "manifest.json"), "does not list"),
    "location is an address": (_set_external("location", "*/_ORT_MEM_ADDR_/*"), "does not list"),
    "offset negative": (_set_external("offset", "-4096"), "no whole numbers"),
    "offset unaligned": (_set_external("offset", "4"), "offset 4 is no multiple of 4096"),
    "offset behind the end": (_set_external("offset", str(3 * 4096)), "lie outside"),
    "offset 2^63 - 4096": (_set_external("offset", str(2**63 - 4096)), "lie outside"),
    "offset 2^64": (_set_external("offset", str(2**64)), "no whole numbers"),
    "offset of a million digits": (_set_external("offset", "9" * 10**6), "no whole numbers"),
    "offset in Arabic digits": (_set_external("offset", "\u0664"), "no whole numbers"),
    "offset in hexadecimal": (_set_external("offset", "0x0"), "no whole numbers"),
    "length too small": (_set_external("length", "188"), "188 bytes of external data, but"),
    "length too large": (_set_external("length", "196"), "type and shape need 192"),
    "length negative": (_set_external("length", "-192"), "no whole numbers"),
    "unknown key": (_set_external("basepath", "/etc"), "external data has keys"),
    "key twice": (
        _bias(lambda t: t.external_data.add(key="location", value="../x")),
        "external data has keys",
    ),
    "no length": (_bias(lambda t: t.external_data.pop()), "external data has keys"),
    "inline and external": (_bias(lambda t: setattr(t, "raw_data", bytes(192))), "both inline"),
    "external without saying so": (
        _bias(lambda t: setattr(t, "data_location", TensorProto.DEFAULT)),
        "without being external",
    ),
    "shape larger than the data": (_bias(lambda t: t.dims.append(2)), "need 384"),
    "shape 2^62 x 2^62": (_bias(lambda t: t.dims.extend([2**62] * 2)), "beyond the limits"),
    "shape negative": (_bias(lambda t: t.dims.extend([-1, -1])), "beyond the limits"),
    "a million dimensions": (_bias(lambda t: t.dims.extend([2**62] * 10**6)), "beyond the limits"),
    "type unknown": (_bias(lambda t: setattr(t, "data_type", 99)), "type 99"),
    "type string": (_bias(lambda t: setattr(t, "data_type", TensorProto.STRING)), "type 8"),
    "extents overlap": (_overlapping, "overlap"),
    "external in an attribute": (_external_in_attribute, r"`\.\./secret`, which the manifest"),
    "external in a list of tensors": (_external_in_attribute_list, "`/etc/passwd`, which"),
    "external in a sparse tensor": (_sparse, "sparse tensors"),
    # Operators.
    "custom operator": (
        _add(node("Run", ["x"], ["y"], domain="evil.ops")),
        "`evil.ops.Run` is not",
    ),
    "custom domain": (
        lambda m, tiny: m.opset_import.append(helper.make_opsetid("evil.ops", 1)),
        "operators of domain `evil.ops`",
    ),
    "classic machine learning": (
        _add(node("LinearRegressor", ["x"], ["y"], domain="ai.onnx.ml")),
        "not allowed",
    ),
    "engine of an execution provider": (
        _add(node("EPContext", [], ["y"], domain="com.microsoft", ep_cache_context="../evil.so")),
        "`com.microsoft.EPContext` is not allowed",
    ),
    "Python operator": (
        _add(node("PythonOp", ["x"], ["y"], domain="com.microsoft")),
        "not allowed",
    ),
    "misspelt operator": (_add(node("add", ["x", "x"], ["y"])), "`ai.onnx.add` is not allowed"),
    "standard operator in another domain": (
        _add(node("Add", ["x", "x"], ["y"], domain="com.microsoft")),
        "`com.microsoft.Add` is not allowed",
    ),
    "If": (
        _add(node("If", ["x"], ["y"], then_branch=_subgraph(), else_branch=_subgraph())),
        "`ai.onnx.If` is not allowed; .*holds a sub-graph",
    ),
    "Loop": (_add(node("Loop", ["x"], ["y"], body=_subgraph())), "`ai.onnx.Loop` is not"),
    "Scan": (
        _add(node("Scan", ["x"], ["y"], body=_subgraph(), num_scan_inputs=1)),
        "`ai.onnx.Scan` is not allowed",
    ),
    "NonZero": (_add(node("NonZero", ["x"], ["y"])), "`ai.onnx.NonZero` is not allowed"),
    "Unique": (_add(node("Unique", ["x"], ["y"])), "`ai.onnx.Unique` is not allowed"),
    "sub-graph in disguise": (_hidden_subgraph, "holds a sub-graph"),
    "function that redefines Add": (_function, "local functions"),
    "attribute of a function": (
        lambda m, tiny: m.graph.node[0].attribute.append(
            AttributeProto(name="a", ref_attr_name="b")
        ),
        "reference to a function's attribute",
    ),
    # Bombs.
    "Expand to 2^40": (_expand(2**20, 2**20), "Expand makes more than"),
    "Expand to 2^63 - 1": (_expand(2**63 - 1), "Expand makes more than"),
    "ConstantOfShape of 2^40": (_constant_of_shape, "ConstantOfShape makes more than"),
    "Tile by what the input says": (
        _add(node("Cast", ["x"], ["n"], to=TensorProto.INT64), node("Tile", ["x", "n"], ["y"])),
        "Tile takes its size from `n`, no constant",
    ),
    "Range from a weight": (_add(node("Range", ["bias", "bias", "bias"], ["y"])), "no constant"),
    "giant constant": (
        _add(node("Constant", [], ["y"], value=_floats(limits.GRAPH_INLINE_TENSOR_BYTES // 4 + 1))),
        "1048580 bytes inline",
    ),
    "giant initializer": (
        lambda m, tiny: m.graph.initializer.append(_floats(limits.GRAPH_INLINE_TENSOR_BYTES)),
        "4194304 bytes inline",
    ),
    "raw data of the wrong size": (
        lambda m, tiny: setattr(m.graph.initializer[0], "raw_data", bytes(7)),
        "7 raw bytes",
    ),
    "too many nodes": (
        _add(*[node("Identity", ["x"], [])] * (limits.GRAPH_NODES + 1)),
        "200003 nodes, more than 200000",
    ),
    "intermediate value of 2^186": (_huge_inner, "value x: has shape"),
    # Interface.
    "dynamic input": (_dynamic_input, "input pixels: has no static shape"),
    "dynamic value": (_dynamic_inner, "value x: has no static shape"),
    "other input shape": (
        lambda m, tiny: setattr(m.graph.input[0].type.tensor_type.shape.dim[3], "dim_value", 5),
        r"input pixels is \('float32', \(1, 3, 4, 5\)\), but the manifest says",
    ),
    "other output type": (
        lambda m, tiny: setattr(m.graph.output[0].type.tensor_type, "elem_type", 11),
        "output features is .*type 11",
    ),
    "input renamed": (lambda m, tiny: setattr(m.graph.input[0], "name", "p"), "input p is not in"),
    "output missing": (lambda m, tiny: m.graph.output.pop(), "output features of the manifest is"),
    "more outputs": (
        lambda m, tiny: m.graph.output.append(
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 12])
        ),
        "output x is not in the manifest",
    ),
    "output twice": (lambda m, tiny: m.graph.output.append(m.graph.output[0]), "occurs 2 times"),
    "input that is a sequence": (
        lambda m, tiny: m.graph.input[0].type.sequence_type.elem_type.SetInParent(),
        "is no tensor",
    ),
    "tensor defined twice": (
        lambda m, tiny: m.graph.initializer.append(m.graph.initializer[0]),
        "`shape` is defined 2 times",
    ),
    "initializer that is an input": (
        lambda m, tiny: m.graph.initializer.append(_floats(48, "pixels")),
        "`pixels` is defined 2 times",
    ),
    "session options": (_session_options, "session options"),
    "two versions of the operators": (
        lambda m, tiny: m.opset_import.append(helper.make_opsetid("ai.onnx", 7)),
        "imports 2 versions of domain `ai.onnx`",
    ),
    "no version of the operators": (
        lambda m, tiny: m.opset_import.pop(),
        "imports no version of the standard operators",
    ),
    "training": (lambda m, tiny: m.training_info.add(), "training information"),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_graph_is_not_admitted(tiny, bundle_dir, name):
    edit, message = GRAPHS[name]
    tiny.edit_graph(bundle_dir, "tower", lambda model: edit(model, tiny))
    start = time.monotonic()
    with pytest.raises(BundleError, match=message) as caught:
        tiny.use(bundle_dir)
    assert time.monotonic() - start < 2
    assert str(caught.value).startswith("onnx/ort/tower.onnx: graph not admitted: ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2000


@pytest.fixture(scope="module")
def tower(tiny):
    """Stage, good bytes and files of the tower, without a bundle on disk."""
    from edgetok.bundle.parse import parse_manifest

    stage, model = tiny.graphs()[0]
    return stage, model.SerializeToString(), parse_manifest(tiny.good_manifest()).files


def test_good_graph_is_admitted(tower):
    stage, data, files = tower
    assert admit_graph(data, stage, files) is None


def _bytes_of_another_format(data: bytes) -> bytes:
    """Valid ONNX in which onnxruntime sees its own format, and would read that instead."""
    return b"\x12\x06..ORTM" + data


# Name -> (bytes made of the good ones, what the message says).
BYTES = {
    "empty": (lambda d: b"", "imports no version"),
    "garbage": (lambda d: b"\xff" * 100, "no ONNX protobuf"),
    "two formats at once": (_bytes_of_another_format, "onnxruntime's own format"),
    "unknown field": (lambda d: d + b"\xfa\x3f\x01x", "does not know"),
    "name that is not UTF-8": (
        lambda d: d.replace(b"\x04bias", b"\x04bi\xff\xfe"),
        "is not UTF-8",
    ),
    "location that is not UTF-8": (
        lambda d: d.replace(b"weights/model", b"weights/m\xff\xfeel"),
        "not UTF-8",
    ),
    "key that is not UTF-8": (lambda d: d.replace(b"\x06offset", b"\x06offs\xff\xfe"), "has keys"),
    "operator that is not UTF-8": (
        lambda d: d.replace(b"\x03Add", b"\x03\xff\xfed"),
        "not allowed",
    ),
    "nested 5000 deep": (lambda d: _nested(5000), "nested too deep"),
    "65 MiB": (lambda d: d + b"\x12" + bytes(65 << 20), "more than the limit"),
    "a million nodes": (lambda d: d + b"\x3a" + _varint(2_000_000) + b"\x0a\0" * 10**6, "nodes"),
}


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _nested(levels: int) -> bytes:
    data = b""
    for _ in range(levels):  # a graph in an attribute of a node in a graph ...
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            data = tag + _varint(len(data)) + data
    return b"\x3a" + _varint(len(data)) + data


@pytest.mark.parametrize("name", BYTES)
def test_bytes_that_are_not_admitted(tower, name):
    stage, data, files = tower
    make, message = BYTES[name]
    data = make(data)
    start = time.monotonic()
    with pytest.raises(BundleError, match=message):
        admit_graph(data, stage, files)
    assert time.monotonic() - start < 1


def test_every_truncation_gives_an_answer(tower):
    stage, data, files = tower
    for end in range(len(data)):
        with pytest.raises(BundleError, match=stage.file):
            admit_graph(data[:end], stage, files)


@settings(max_examples=500, deadline=None)
@given(
    edits=st.lists(
        st.tuples(st.integers(0, 1 << 12), st.integers(0, 4), st.binary(max_size=4)),
        min_size=1,
        max_size=4,
    )
)
def test_mutated_graph_is_admitted_or_a_bundle_error(tower, edits):
    stage, data, files = tower
    for at, length, replacement in edits:
        at %= len(data)
        data = data[:at] + replacement + data[at + length :]
    try:
        admit_graph(data, stage, files)
    except BundleError as error:
        assert str(error).isprintable()
