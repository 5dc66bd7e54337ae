"""Manifests of encoders: strict, without contradictions, and apart from those that answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import msgspec
import pytest

from edgetok.bundle.encoder_parse import parse_encoder_manifest
from edgetok.bundle.encoders import EncoderManifest, EncoderRung, Similarity, TextSide
from edgetok.bundle.manifest import File, Stage, Tensor, Vision
from edgetok.bundle.parse import parse_manifest, read_task
from edgetok.bundle.strict import encode_strict
from edgetok.errors import BundleError, UsageError

_FILE = File(bytes=1, sha256="0" * 64)
_IMAGE, _TOKENIZER = "processor/image.json", "processor/tokenizer.json"


def encode(budget: int, output: Tensor, flavour: str = "ort") -> Stage:
    return Stage(
        stage="encode",
        budget=budget,
        flavour=flavour,  # type: ignore[arg-type]
        file=f"onnx/{flavour}/encode_{budget}.onnx",
        inputs=[Tensor(name="pixels", dtype="float32", shape=[1, 3, 32, 32])],
        outputs=[
            output,
            Tensor(name="kept", dtype="int64", shape=[budget]),
            Tensor(name="sizes", dtype="float32", shape=[budget]),
        ],
    )


def classifier() -> EncoderManifest:
    output = Tensor(name="logits", dtype="float32", shape=[1, 3])
    stages = [encode(4, output), encode(16, output)]
    return EncoderManifest(
        format_version=1,
        task="classify",
        producer="edgetok test",
        family="vit",
        method="tome",
        ladder=[EncoderRung(budget=4), EncoderRung(budget=16)],
        weights="fp32",
        vision=Vision(height_px=32, width_px=32, grid=[4, 4], full_tokens=16),
        output=output,
        labels=["cat", "dog", "sign"],
        text=None,
        stages=stages,
        files=dict.fromkeys([_IMAGE, *(stage.file for stage in stages)], _FILE),
    )


def comparer() -> EncoderManifest:
    output = Tensor(name="embedding", dtype="float32", shape=[1, 8])
    describe = Stage(
        stage="describe",
        budget=None,
        flavour="ort",
        file="onnx/ort/describe.onnx",
        inputs=[Tensor(name="token_ids", dtype="int64", shape=[1, 20])],
        outputs=[Tensor(name="text_embedding", dtype="float32", shape=[1, 8])],
    )
    stages = [encode(16, output), describe]
    return msgspec.structs.replace(
        classifier(),
        task="similarity",
        ladder=[EncoderRung(budget=16)],
        output=output,
        labels=[],
        text=TextSide(tokens=20, similarity=Similarity(scale=10.0, bias=0.0, kind="softmax")),
        stages=stages,
        files=dict.fromkeys([_IMAGE, _TOKENIZER, *(s.file for s in stages)], _FILE),
    )


@pytest.mark.parametrize("make", [classifier, comparer])
def test_a_manifest_comes_back_as_it_was(make: Callable[[], EncoderManifest]) -> None:
    data = encode_strict(make())
    assert parse_encoder_manifest(data) == make()
    assert read_task(data) == make().task


def test_bundles_that_answer_and_encoders_are_told_apart(manifest_bytes: bytes) -> None:
    assert read_task(manifest_bytes) == "answer"
    with pytest.raises(UsageError, match="answers questions"):
        parse_encoder_manifest(manifest_bytes)
    with pytest.raises(UsageError, match="no language model; its task is classify"):
        parse_manifest(encode_strict(classifier()))


@pytest.fixture
def manifest_bytes(tiny: ModuleType) -> bytes:
    """Of a bundle that answers."""
    found: bytes = tiny.good_manifest()
    return found


def _change(tree: Any, path: str, value: Any) -> None:
    *above, last = (int(part) if part.isdigit() else part for part in path.split("/"))
    for part in above:
        tree = tree[part]
    if value is None and isinstance(tree, dict) and last in tree and last != "text":
        del tree[last]
    else:
        tree[last] = value


def contradict(make: Callable[[], EncoderManifest], path: str, value: Any) -> bytes:
    """The bytes of a manifest of which one thing was changed, or a file taken out."""
    tree = json.loads(encode_strict(make()))
    if "~" in path:
        folder, name = path.split("~")
        del tree[folder][name]
    else:
        _change(tree, path, value)
    return json.dumps(tree).encode()


# What is changed in which good manifest, and what the message says; the C library reads it, too.
CONTRADICTIONS = [
    (classifier, "task", "dance", "Invalid enum value 'dance'"),
    (classifier, "task", "embed", "does not go with the task"),
    (classifier, "labels", ["cat"], "1 names for 3 classes"),
    (classifier, "ladder/0/budget", 16, "not ascending and unique"),
    (classifier, "ladder/1/budget", 17, "exceeds the 16 full tokens"),
    (classifier, "ladder/0/budget", 5, "rung 5 has 0 ort graphs of encode"),
    (classifier, "vision/grid", [4, 5], "is not full_tokens"),
    (classifier, "vision/parts", 2, "of one part"),
    (classifier, "vision/height_px", 65_536, "exceeds 32768 pixels"),
    (classifier, "output/dtype", "int64", "does not go with the task"),
    (classifier, "output/shape", [2, 3], "not of one picture"),
    (classifier, "stages/0/stage", "decode", "which no encoder has"),
    (classifier, "stages/0/layer", 1, "which no encoder has"),
    (classifier, "stages/0/inputs/0/shape", [1, 3, 16, 16], "does not take and give"),
    (classifier, "stages/0/outputs/1/shape", [5], "does not take and give"),
    (classifier, "stages/0/file", "onnx/other.onnx", "is not listed in $.files"),
    (classifier, f"files~{_IMAGE}", None, f"does not list {_IMAGE}"),
    (classifier, "surprise", 1, "unknown field"),
    (classifier, "weights", None, "missing required field `weights`"),
    (classifier, "format_version", 2, "upgrade edgetok"),
    (classifier, "labels", [], "0 names for 3 classes"),
    (classifier, "output/shape", [1, 0], "not of one picture"),
    (classifier, "output/name", "embedding", "does not go with the task"),
    (classifier, "text", {"tokens": 2}, "missing required field `similarity`"),
    (classifier, "stages/0/budget", 4.0, "budget"),
    (comparer, "stages/1/outputs/0/shape", [1, 9], "describe of rung None does not take"),
    (comparer, "stages/1/flavour", "portable", "0 ort graphs of describe, not 1 for all rungs"),
    (comparer, "text", None, "$.text does not go with the task"),
    (comparer, "labels", ["cat"], "has no classes"),
    (comparer, "text/tokens", 21, "does not take and give"),
    (comparer, "text/similarity/kind", "cosine", "Invalid enum value"),
    (comparer, "stages/1/budget", 16, "1 ort graphs of describe"),
    (comparer, f"files~{_TOKENIZER}", None, f"does not list {_TOKENIZER}"),
]


@pytest.mark.parametrize(("make", "path", "value", "message"), CONTRADICTIONS)
def test_contradictions_are_named(
    make: Callable[[], EncoderManifest], path: str, value: Any, message: str
) -> None:
    with pytest.raises(BundleError) as caught:
        parse_encoder_manifest(contradict(make, path, value))
    assert message in str(caught.value)


def test_a_portable_graph_of_one_rung_alone_is_refused() -> None:
    manifest = classifier()
    more = encode(4, manifest.output, "portable")
    files = {**manifest.files, more.file: _FILE}
    changed = msgspec.structs.replace(manifest, stages=[*manifest.stages, more], files=files)
    with pytest.raises(BundleError, match="rung 16 has 0 portable graphs of encode"):
        parse_encoder_manifest(encode_strict(changed))


def test_graphs_of_encoders_belong_into_no_bundle_that_answers(manifest_bytes: bytes) -> None:
    tree = json.loads(manifest_bytes)
    tree["stages"].append(json.loads(encode_strict(classifier().stages[0])))
    tree["files"]["onnx/ort/encode_4.onnx"] = {"bytes": 1, "sha256": "0" * 64}
    with pytest.raises(BundleError, match="encode belongs to bundles of encoders"):
        parse_manifest(json.dumps(tree).encode())
