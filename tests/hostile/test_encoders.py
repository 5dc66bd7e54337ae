"""Hostile bundles of encoders, each named for what is wrong; the C library is held to the same."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import onnx
import pytest
from onnx import TensorProto, helper

from edgetok.bundle.reader import EncoderBundle, open_bundle
from edgetok.errors import BundleError

HERE = Path(__file__).parent
node = helper.make_node


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"hostile_encoders_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FILES = _load(HERE / "test_files.py").FILES
tiny_encoder = _load(HERE.parent / "bundle" / "tiny_encoder.py")


@pytest.fixture
def encoder_dir(tmp_path: Path) -> Path:
    """A good bundle that compares pictures with texts, which a test may damage."""
    out: Path = tiny_encoder.write(tmp_path / "tiny.bundle", "similarity")
    return out


def _head(change):
    def edit(model: onnx.ModelProto) -> None:
        change(next(tensor for tensor in model.graph.initializer if tensor.name == "head"))

    return edit


def _location(path: str):
    def change(tensor: TensorProto) -> None:
        (entry,) = (each for each in tensor.external_data if each.key == "location")
        entry.value = path

    return _head(change)


def _add(*nodes: onnx.NodeProto):
    return lambda model: model.graph.node.extend(nodes)


# Name -> (edit of the graph of rung 2, what the message says).
GRAPHS = {
    "location upwards": (_location("../model.bin"), "which the manifest does not list"),
    "location absolute": (_location("/etc/passwd"), "which the manifest does not list"),
    "shape larger than the data": (_head(lambda t: t.dims.append(2)), "type and shape need"),
    "shape 2^62": (_head(lambda t: t.dims.append(2**62)), "beyond the limits"),
    "custom operator": (_add(node("Run", ["x"], ["q"], domain="evil.ops")), "is not allowed"),
    "NonZero": (_add(node("NonZero", ["x"], ["q"])), "`ai.onnx.NonZero` is not allowed"),
    "Tile by what the input says": (
        _add(node("Cast", ["x"], ["n"], to=TensorProto.INT64), node("Tile", ["x", "n"], ["q"])),
        "Tile takes its size from `n`, no constant",
    ),
    "other output shape": (
        lambda m: setattr(m.graph.output[0].type.tensor_type.shape.dim[1], "dim_value", 7),
        r"output embedding is \('float32', \(1, 7\)\), but the manifest says",
    ),
    "kept of another type": (
        lambda m: setattr(m.graph.output[1].type.tensor_type, "elem_type", TensorProto.INT32),
        "output kept is",
    ),
    "sizes missing": (lambda m: m.graph.output.pop(), "output sizes of the manifest is"),
    "dynamic input": (
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_param", "n"),
        "input pixels: has no static shape",
    ),
    "session options": (
        lambda m: m.metadata_props.add(key="ort_config", value="{}"),
        "session options",
    ),
}
# Name -> (a replacement in the good manifest's text, what the message says).
MALFORMED = {
    "task as number": (('"task": "similarity"', '"task": 7'), r"task"),
    "task twice": (
        ('"task": "similarity"', '"task": "answer", "task": "similarity"'),
        r"duplicate key at `\$\.task`",
    ),
    "task of a bundle that answers": (('"task": "similarity"', '"task": "answer"'), "field"),
    "label as number": (('"labels": []', '"labels": [1]'), r"\$\.labels\[0\]"),
    "label of 1025 letters": (
        ('"labels": []', f'"labels": ["{"ä" * 1025}"]'),
        r"\$\.labels\[0\]",
    ),
    "100,001 labels": (('"labels": []', f'"labels": [{",".join(["0"] * 100_001)}]'), "labels"),
    "scale as text": (('"scale": 12.5', '"scale": "12.5"'), r"\$\.text\.similarity\.scale"),
    "scale NaN": (('"scale": 12.5', '"scale": NaN'), "NaN is no JSON number|not valid JSON"),
    "scale 1e999": (('"scale": 12.5', '"scale": 1e999'), "scale"),
    "no output": (('"output": {', '"outcome": {'), "output|outcome"),
    "output twice": (('"output": {', '"output": {}, "output": {'), r"duplicate key at `\$\.output"),
    "rung of text tokens": (
        ('"budget": 2', '"budget": 2, "prompt_tokens": 9'),
        r"unknown field `prompt_tokens` - at `\$\.ladder\[",
    ),
    "tokens 0": (('"tokens": 5', '"tokens": 0'), r"\$\.text\.tokens"),
    "tokens 2^63": (('"tokens": 5', '"tokens": 9223372036854775808'), r"\$\.text\.tokens"),
    "a controller": (('"labels": []', '"labels": [], "controller": null'), "unknown field"),
    "later format": (('"format_version": 1', '"format_version": 2'), "upgrade edgetok"),
}


def test_a_good_bundle_passes(encoder_dir: Path) -> None:
    assert tiny_encoder.use(encoder_dir).manifest.task == "similarity"


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_manifest(encoder_dir: Path, name: str) -> None:
    malform(encoder_dir, name)
    with pytest.raises(BundleError, match=MALFORMED[name][1]) as caught:
        open_bundle(encoder_dir)  # of either kind, as its manifest says
    assert str(caught.value).isprintable()


def malform(bundle: Path, name: str) -> None:
    """Replace a text in the manifest, once."""
    file = bundle / "manifest.json"
    good, (old, new) = file.read_text(), MALFORMED[name][0]
    assert old in good
    file.write_text(good.replace(old, new, 1))


@pytest.mark.parametrize("name", GRAPHS)
def test_graph_is_not_admitted(encoder_dir: Path, name: str) -> None:
    edit, message = GRAPHS[name]
    tiny_encoder.edit_graph(encoder_dir, "encode_2", edit)
    with pytest.raises(BundleError, match=message) as caught:
        tiny_encoder.use(encoder_dir)
    assert str(caught.value).startswith("onnx/ort/encode_2.onnx: graph not admitted: ")


@pytest.mark.parametrize("name", FILES)
def test_file_that_is_not_what_was_published(encoder_dir: Path, name: str) -> None:
    damage, message = FILES[name]
    damage(encoder_dir)
    with pytest.raises(BundleError, match=message):
        EncoderBundle.open(encoder_dir)
