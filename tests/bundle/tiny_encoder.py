"""Bundles of encoders of a few kilobytes with real graphs, one for each task.

The models mean nothing, but every graph runs, and every rung gives another output.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgetok.bundle.admission import admit_graph
from edgetok.bundle.encoder_golden import (
    EncoderCase,
    GoldenText,
    encode_encoder_golden,
    load_encoder_golden,
)
from edgetok.bundle.encoders import EncoderManifest, EncoderRung, Similarity, TextSide
from edgetok.bundle.manifest import Stage, Tensor, Vision
from edgetok.bundle.processor import parse_image_plan
from edgetok.bundle.reader import EncoderBundle
from edgetok.bundle.strict import encode_strict
from edgetok.bundle.writer import BundleWriter

BUDGETS, SIDE, PAGE = (2, 4), 8, 4096
VOCABULARY, WIDTH, LENGTH = 11, 6, 5
LABELS = ["cat", "dog", "rote Blüte"]
WEIGHTS = "weights/model.bin"
OUTPUTS = {
    "classify": ("logits", [1, 3]),
    "embed": ("embedding", [1, WIDTH]),
    "similarity": ("embedding", [1, WIDTH]),
    "depth": ("depth", [1, 4, 5]),
    "segment": ("scores", [1, 3, 2, 4]),
}
IMAGE = {
    "resize_shortest_px": SIDE,
    "resize_px": None,
    "resample": "bicubic",
    "crop_px": [SIDE, SIDE],
    "rescale": 1 / 255,
    "mean": [0.5, 0.4, 0.45],
    "std": [0.25, 0.3, 0.28],
}
_TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
node = helper.make_node


def _tensors(task: str) -> dict[str, tuple[int, ...]]:
    """Shapes of what is stored in the weights file, a page or more each."""
    count = int(np.prod(OUTPUTS[task][1]))
    return {"table": (VOCABULARY, WIDTH), "head": (3 * SIDE * SIDE, count), "turned": (SIDE, SIDE)}


def weights(task: str) -> bytes:
    pages = [
        np.random.default_rng(seed).standard_normal(shape, dtype=np.float32).tobytes()
        for seed, shape in enumerate(_tensors(task).values())
    ]
    return b"".join(page.ljust(-(-len(page) // PAGE) * PAGE, b"\0") for page in pages)


def external(task: str, name: str) -> TensorProto:
    """A tensor of the weights file."""
    offset = 0
    for known, shape in _tensors(task).items():
        size = 4 * int(np.prod(shape))
        if known == name:
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
            tensor.data_location = TensorProto.EXTERNAL
            entries = {"location": WEIGHTS, "offset": str(offset), "length": str(size)}
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=value)
            return tensor
        offset += -(-size // PAGE) * PAGE
    raise AssertionError(name)


def _ints(name: str, *values: int) -> TensorProto:
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)


def _floats(name: str, *values: float) -> TensorProto:
    return helper.make_tensor(name, TensorProto.FLOAT, [len(values)], values)


def _unit(source: str, out: str) -> list[onnx.NodeProto]:
    """Rows [1, E] of length 1."""
    return [
        node("Mul", [source, source], ["squares"]),
        node("ReduceSum", ["squares", "last"], ["squared"], keepdims=1),
        node("Sqrt", ["squared"], ["length"]),
        node("Div", [source, "length"], [out]),
    ]


def _encode(task: str, budget: int, flavour: str) -> tuple[Stage, onnx.ModelProto]:
    name, shape = OUTPUTS[task]
    output = Tensor(name=name, dtype="float32", shape=shape)
    rows = [Tensor(name="kept", dtype="int64", shape=[budget])]
    rows += [Tensor(name="sizes", dtype="float32", shape=[budget])]
    nodes = [
        # Optimizers may take the transposes away by turning the weights between them, which
        # nobody else may then read as they were.
        node("Transpose", ["pixels"], ["columns"], perm=[0, 1, 3, 2]),
        node("Mul", ["columns", "turned"], ["weighted"]),
        node("Transpose", ["weighted"], ["rows"], perm=[0, 1, 3, 2]),
        node("Reshape", ["rows", "flat"], ["x"]),
        node("MatMul", ["x", "head"], ["y"]),
        node("Mul", ["y", "scale"], ["z"]),
        node("Reshape", ["z", "shape"], ["w"]),
        node("Tanh", ["w"], ["v" if task == "similarity" else name]),
        *(_unit("v", name) if task == "similarity" else []),
        node("Identity", ["places"], ["kept"]),
        node("ReduceMean", ["x"], ["mean"], keepdims=0),
        node("Add", ["counts", "mean"], ["sizes"]),
    ]
    tensors = [
        *(external(task, "head"), external(task, "turned")),
        *(_ints("flat", 1, -1), _ints("shape", *shape), _floats("scale", 0.1 / budget)),
        *(_ints("places", -1, *range(1, budget)), _floats("counts", *[4 / budget] * budget)),
    ]
    tensors += [_ints("last", 1)] if task == "similarity" else []
    pixels = Tensor(name="pixels", dtype="float32", shape=[1, 3, SIDE, SIDE])
    stage = Stage(
        stage="encode",
        budget=budget,
        flavour=flavour,  # type: ignore[arg-type]
        file=f"onnx/{flavour}/encode_{budget}.onnx",
        inputs=[pixels],
        outputs=[output, *rows],
    )
    return stage, _model(stage, nodes, tensors)


def _describe(flavour: str) -> tuple[Stage, onnx.ModelProto]:
    nodes = [
        node("Gather", ["table", "token_ids"], ["rows"]),
        node("ReduceMean", ["rows", "last"], ["w"], keepdims=0),
        *_unit("w", "text_embedding"),
    ]
    stage = Stage(
        stage="describe",
        budget=None,
        flavour=flavour,  # type: ignore[arg-type]
        file=f"onnx/{flavour}/describe.onnx",
        inputs=[Tensor(name="token_ids", dtype="int64", shape=[1, LENGTH])],
        outputs=[Tensor(name="text_embedding", dtype="float32", shape=[1, WIDTH])],
    )
    return stage, _model(stage, nodes, [external("similarity", "table"), _ints("last", 1)])


def _model(
    stage: Stage, nodes: list[onnx.NodeProto], tensors: list[TensorProto]
) -> onnx.ModelProto:
    def values(tensors: list[Tensor]) -> list[Any]:
        return [helper.make_tensor_value_info(t.name, _TYPES[t.dtype], t.shape) for t in tensors]

    graph = helper.make_graph(nodes, "tiny", values(stage.inputs), values(stage.outputs), tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def graphs(task: str, flavours: tuple[str, ...]) -> list[tuple[Stage, onnx.ModelProto]]:
    made = [_encode(task, budget, flavour) for flavour in flavours for budget in BUDGETS]
    return made + ([_describe(each) for each in flavours] if task == "similarity" else [])


def manifest(
    task: str, flavours: tuple[str, ...] = ("ort",), kind: str = "softmax"
) -> EncoderManifest:
    name, shape = OUTPUTS[task]
    side = TextSide(
        tokens=LENGTH,
        similarity=Similarity(scale=12.5, bias=-1.0, kind=kind),  # type: ignore[arg-type]
    )
    return EncoderManifest(
        format_version=1,
        task=task,  # type: ignore[arg-type]
        producer="edgetok test",
        family="vit",
        method="tome",
        ladder=[EncoderRung(budget=budget) for budget in BUDGETS],
        weights="fp32",
        vision=Vision(height_px=SIDE, width_px=SIDE, grid=[2, 2], full_tokens=4),
        output=Tensor(name=name, dtype="float32", shape=shape),
        labels=LABELS if task in ("classify", "segment") else [],
        text=side if task == "similarity" else None,
        stages=[stage for stage, _ in graphs(task, flavours)],
        files={},
    )


def _golden(task: str) -> dict[str, bytes]:
    """Files of the right shapes; what they say is not looked at here."""
    shape = OUTPUTS[task][1][1:]
    rungs = {budget: np.zeros(shape, np.float32) for budget in BUDGETS}
    case = EncoderCase("case0", "golden/0.png", np.zeros((3, SIDE, SIDE), np.float32), rungs)
    text = GoldenText("a cat", np.zeros(LENGTH, np.int64), np.zeros(WIDTH, np.float32))
    return encode_encoder_golden([case], text if task == "similarity" else None)


def tokenizer() -> bytes:
    """Words to ids, padded to a length."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<unk>", "a", "cat", "dog", "photo", "of", "red", "table"]
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.enable_padding(length=LENGTH, pad_token="<pad>")
    made.enable_truncation(LENGTH)
    return made.to_str().encode()


def write(
    out: Path, task: str, flavours: tuple[str, ...] = ("ort",), kind: str = "softmax"
) -> Path:
    """Publish a bundle for a task; `kind` is of its similarity."""
    with BundleWriter(out) as writer:
        writer.write(WEIGHTS, weights(task))
        for stage, model in graphs(task, flavours):
            writer.write(stage.file, model.SerializeToString())
        writer.write("processor/image.json", encode_strict(IMAGE))
        if task == "similarity":
            writer.write("processor/tokenizer.json", tokenizer())
        writer.write("golden/0.png", b"not looked at here")
        for path, data in _golden(task).items():
            writer.write(path, data)
        writer.publish(manifest(task, flavours, kind))
    return out


def edit_manifest(bundle: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    tree = json.loads((bundle / "manifest.json").read_text())
    edit(tree)
    (bundle / "manifest.json").write_text(json.dumps(tree))


def seal(bundle: Path) -> None:
    """Make the manifest agree with the files again, as someone who tampers on purpose would."""

    def update(tree: dict[str, Any]) -> None:
        for path in tree["files"]:
            data = (bundle / path).read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            tree["files"][path] = {"bytes": len(data), "sha256": digest}

    edit_manifest(bundle, update)


def edit_graph(bundle: Path, name: str, edit: Callable[[onnx.ModelProto], object]) -> None:
    """Change a graph and hide the change from the hashes."""
    path = bundle / "onnx" / "ort" / f"{name}.onnx"
    graph = onnx.load_model_from_string(path.read_bytes())
    edit(graph)
    path.write_bytes(graph.SerializeToString())
    seal(bundle)


def use(path: Path) -> EncoderBundle:
    """Open a bundle and read everything in it that is ever parsed."""
    bundle = EncoderBundle.open(path)
    parse_image_plan(bundle.read("processor/image.json"))
    for stage in bundle.manifest.stages:
        admit_graph(bundle.graph(stage), stage, bundle.manifest.files)
    load_encoder_golden(bundle)
    bundle.path_of(WEIGHTS)
    return bundle
