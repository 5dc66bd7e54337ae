"""A bundle of a few kilobytes with real graphs, for the tests of bundle/ and hostile/.

Loaded by the `tiny` fixture; the model means nothing, but every graph runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgetok.bundle.admission import admit_graph
from edgetok.bundle.golden import GoldenCase, GoldenRung, encode_golden, load_golden
from edgetok.bundle.manifest import (
    File,
    KvCache,
    Manifest,
    Precision,
    Prefill,
    RungSpec,
    Stage,
    Tensor,
    Text,
    Vision,
)
from edgetok.bundle.parse import parse_manifest
from edgetok.bundle.processor import parse_image_plan, parse_prompt_plan
from edgetok.bundle.reader import Bundle
from edgetok.bundle.strict import encode_strict
from edgetok.bundle.writer import BundleWriter

BUDGETS = (2, 4)
FULL, WIDTH, VOCABULARY, PROMPT, SLOTS = 4, 12, 7, 3, 9
WEIGHTS = "weights/model.bin"
PAGE = 4096
ONNX_TYPE = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}

# Name, shape and offset of each tensor in the weights file.
TENSORS = {
    "bias": ((FULL, WIDTH), 0),
    "table": ((VOCABULARY, WIDTH), PAGE),
    "head": ((WIDTH, VOCABULARY), 2 * PAGE),
}


def weights() -> bytes:
    data = bytearray(3 * PAGE)
    for seed, (shape, offset) in enumerate(TENSORS.values()):
        values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32).tobytes()
        data[offset : offset + len(values)] = values
    return bytes(data)


def external(name: str, **changes: str) -> TensorProto:
    """A tensor of the weights file; `changes` override its external-data entries."""
    shape, offset = TENSORS[name]
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": WEIGHTS, "offset": str(offset), "length": str(4 * int(np.prod(shape)))}
    for key, value in (entries | changes).items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def ints(name: str, *values: int) -> TensorProto:
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)


def model(stage: Stage, nodes: list, tensors: list[TensorProto]) -> onnx.ModelProto:
    def values(tensors: list[Tensor]) -> list:
        return [helper.make_tensor_value_info(t.name, ONNX_TYPE[t.dtype], t.shape) for t in tensors]

    graph = helper.make_graph(nodes, "tiny", values(stage.inputs), values(stage.outputs), tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _floats(name: str, *shape: int) -> Tensor:
    return Tensor(name=name, dtype="float32", shape=list(shape))


def _ids(name: str, *shape: int) -> Tensor:
    return Tensor(name=name, dtype="int64", shape=list(shape))


def _stage(name: str, rung: int | None, inputs: Tensor, outputs: Tensor) -> Stage:
    suffix = "" if rung is None else f"_{rung}"
    return Stage(
        stage=name,
        budget=rung,
        flavour="ort",
        file=f"onnx/ort/{name}{suffix}.onnx",
        inputs=[inputs],
        outputs=[outputs],
    )


def graphs() -> list[tuple[Stage, onnx.ModelProto]]:
    node = helper.make_node
    features, logits = _floats("features", FULL, WIDTH), _floats("logits", 1, VOCABULARY)
    tower = _stage("tower", None, _floats("pixels", 1, 3, 4, 4), features)
    embed = _stage("embed", None, _ids("token_ids", 5), _floats("text_embeds", 5, WIDTH))
    extend = _stage("extend", None, _floats("chunk_embeds", 1, WIDTH), logits)
    decode = _stage("decode", None, _floats("embeds", 1, WIDTH), logits)
    made = [
        (
            tower,
            [node("Reshape", ["pixels", "shape"], ["x"]), node("Add", ["x", "bias"], ["features"])],
            [ints("shape", FULL, WIDTH), external("bias")],
        ),
        (embed, [node("Gather", ["table", "token_ids"], ["text_embeds"])], [external("table")]),
        (extend, [node("MatMul", ["chunk_embeds", "head"], ["logits"])], [external("head")]),
        (decode, [node("MatMul", ["embeds", "head"], ["logits"])], [external("head")]),
    ]
    for k in BUDGETS:
        compress = _stage("compress", k, features, _floats("visual_tokens", k, WIDTH))
        gather = node("Gather", ["features", "kept"], ["visual_tokens"])
        made.append((compress, [gather], [ints("kept", *range(k))]))
        prefill = _stage("prefill", k, _floats("input_embeds", k + PROMPT, WIDTH), logits)
        mean = node("ReduceMean", ["input_embeds", "axis"], ["x"], keepdims=1)
        head = node("MatMul", ["x", "head"], ["logits"])
        made.append((prefill, [mean, head], [ints("axis", 0), external("head")]))
    return [(stage, model(stage, nodes, tensors)) for stage, nodes, tensors in made]


def manifest(files: dict[str, File] | None = None) -> Manifest:
    return Manifest(
        format_version=1,
        producer="edgetok 0.1.0",
        family="llava",
        method="random",
        seed=7,
        ladder=[
            RungSpec(budget=k, prompt_tokens=PROMPT, cache_slots=k + 5, removed=[0])
            for k in BUDGETS
        ],
        precision=Precision(weights="fp32", kv="fp32"),
        prefill=Prefill(method="none", ratio=1.0),
        kv=KvCache(
            layers=1,
            kv_heads=1,
            head_dim=4,
            slots=[SLOTS],
            policy="none",
            positions="kept",
            reuse="rewind",
            extends=True,
        ),
        text=Text(hidden=WIDTH, vocabulary=VOCABULARY, max_positions=64, stop_ids=[2], pad_id=0),
        vision=Vision(height_px=4, width_px=4, grid=[2, 2], full_tokens=FULL),
        stages=[stage for stage, _ in graphs()],
        files=files or {},
    )


IMAGE = {
    "resize_shortest_px": None,
    "resize_px": [4, 4],
    "resample": "bicubic",
    "crop_px": None,
    "rescale": 1 / 255,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}
PROMPT_PLAN = {
    "segments": [{"ids": [1]}, {"slot": "image"}, {"text": "Q: "}, {"slot": "user"}],
    "forbidden_ids": [1, 2, 3],
}


def golden() -> GoldenCase:
    random = np.random.default_rng(3)

    def rung(k: int) -> GoldenRung:
        logits = random.standard_normal(VOCABULARY, dtype=np.float32)
        return GoldenRung(np.arange(k), logits, np.array([4, 5, 2]))

    return GoldenCase(
        name="0",
        image="golden/0.png",
        prompt="What is this?",
        pixels=random.standard_normal((3, 4, 4), dtype=np.float32),
        text_ids=np.array([1, -1, 4, 5]),
        rungs={k: rung(k) for k in BUDGETS},
    )


def contents() -> dict[str, bytes]:
    """Every file of the bundle except the manifest."""
    return {
        WEIGHTS: weights(),
        **{stage.file: graph.SerializeToString() for stage, graph in graphs()},
        "processor/image.json": encode_strict(IMAGE),
        "processor/prompt.json": encode_strict(PROMPT_PLAN),
        "processor/tokenizer.json": b"{}\n",
        "golden/0.png": b"not looked at here",
        **encode_golden([golden()]),
    }


def write(out: Path, seed: int = 7, **options: object) -> str:
    """Publish the bundle; `seed` makes two of them differ."""
    import msgspec

    with BundleWriter(out, **options) as writer:
        for path, data in contents().items():
            writer.write(path, data)
        return writer.publish(msgspec.structs.replace(manifest(), seed=seed))


def good_manifest() -> bytes:
    """The bytes of a manifest that parses."""
    return encode_strict(
        manifest(
            {
                path: File(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
                for path, data in contents().items()
            }
        )
    )


def edit_manifest(bundle: Path, edit: Callable[[dict], object]) -> None:
    tree = json.loads((bundle / "manifest.json").read_text())
    edit(tree)
    (bundle / "manifest.json").write_text(json.dumps(tree))


def seal(bundle: Path) -> None:
    """Make the manifest agree with the files again, as someone who tampers on purpose would."""

    def update(tree: dict) -> None:
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


def use(path: Path) -> Bundle:
    """Open a bundle and read everything in it that is ever parsed."""
    bundle = Bundle.open(path)
    parse_image_plan(bundle.read("processor/image.json"))
    parse_prompt_plan(bundle.read("processor/prompt.json"))
    for stage in bundle.manifest.stages:
        admit_graph(bundle.graph(stage), stage, bundle.manifest.files)
    load_golden(bundle)
    bundle.path_of(WEIGHTS)
    assert parse_manifest((path / "manifest.json").read_bytes()) == bundle.manifest
    return bundle
