"""The two readers refuse the same bundles, and say the same about them."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgetok.bundle.strict import encode_strict
from edgetok.errors import BundleError

HOSTILE = Path(__file__).parents[2] / "hostile"


def _tables(name: str):
    spec = importlib.util.spec_from_file_location(f"hostile_{name}", HOSTILE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FILES = _tables("test_files").FILES
GRAPHS = _tables("test_graphs").GRAPHS
BYTES = _tables("test_graphs").BYTES
MALFORMED = _tables("test_json").MALFORMED
UNSAFE = _tables("test_files").UNSAFE
ENCODERS = _tables("test_encoders")
OF_ENCODERS = _tables("../bundle/test_encoder_manifest")

# Where the other parser's words stand in the message.
OTHER_WORDS = {
    "array": "Expected `object`, got `array`",
    "null": "Expected `object`, got `null`",
    "NaN": "not valid JSON",
    "Infinity": "not valid JSON",
    "-Infinity": "not valid JSON",
    "2 MiB": "1048577 bytes, more than the limit of 1048576",  # no more of a file is read
}


def _refused(library, capi, bundle_dir: Path, message: str) -> str:
    with pytest.raises(capi.Failure) as caught:
        library.check(bundle_dir)
    text = str(caught.value)
    assert caught.value.status == 3, text
    assert re.search(message, text), text
    assert text.isprintable()
    assert len(text) < 2000
    return text


def test_good_bundle_passes(library, bundle_dir):
    library.check(bundle_dir)


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_manifest(library, capi, tiny, bundle_dir, name):
    content, message = MALFORMED[name]
    if isinstance(content, tuple):
        content = tiny.good_manifest().decode().replace(*content, 1).encode()
    (bundle_dir / "manifest.json").write_bytes(content)
    text = _refused(library, capi, bundle_dir, OTHER_WORDS.get(name, message))
    assert text.startswith("manifest.json: ")


@pytest.mark.parametrize("name", FILES)
def test_file_that_is_not_what_was_published(library, capi, bundle_dir, name):
    damage, message = FILES[name]
    damage(bundle_dir)
    _refused(library, capi, bundle_dir, message)


@pytest.mark.parametrize("name", GRAPHS)
def test_graph_is_not_admitted(library, capi, tiny, bundle_dir, name):
    edit, message = GRAPHS[name]
    tiny.edit_graph(bundle_dir, "tower", lambda model: edit(model, tiny))
    text = _refused(library, capi, bundle_dir, message)
    assert text.startswith("onnx/ort/tower.onnx: graph not admitted: ")


@pytest.mark.parametrize("name", BYTES)
def test_bytes_that_are_not_admitted(library, capi, tiny, bundle_dir, name):
    make, message = BYTES[name]
    path = bundle_dir / "onnx" / "ort" / "tower.onnx"
    path.write_bytes(make(path.read_bytes()))
    tiny.seal(bundle_dir)
    message = "a graph has at most" if name == "65 MiB" else message
    _refused(library, capi, bundle_dir, message)


@pytest.mark.parametrize("path", UNSAFE, ids=ascii)
def test_unsafe_path(library, capi, tiny, bundle_dir, path):
    def rename(tree) -> None:
        tree["files"][path] = tree["files"].pop("golden/0.png")

    if "\ud800" in path:
        path = "\\ud800"  # JSON has no other way to write it
    tiny.edit_manifest(bundle_dir, rename)
    _refused(library, capi, bundle_dir, "path|manifest.json")


def test_newer_format_names_who_wrote_it(library, capi, tiny, bundle_dir):
    tiny.edit_manifest(bundle_dir, lambda t: t.update(format_version=2, producer="edgetok 9.0"))
    _refused(library, capi, bundle_dir, "written by edgetok 9.0 in format 2; .* upgrade edgetok")


@pytest.mark.parametrize(
    "edit",
    [
        lambda t: t["ladder"][0].update(budget=4),
        lambda t: t["ladder"][1].update(cache_slots=100),
        lambda t: t["ladder"][0].update(removed=[0, 0]),
        lambda t: t["kv"].update(slots=[9, 9]),
        lambda t: t["kv"].update(keep=[4]),
        lambda t: t["kv"].update(ring=4),
        lambda t: t["kv"].update(ring=99, reuse="append"),
        lambda t: t["kv"].update(filing="groups", reuse="append"),
        lambda t: t["kv"].update(filing="tiers", ring=4, reuse="append"),
        lambda t: t["kv"].update(filing="heaps"),
        lambda t: t["kv"].update(reuse="rewinds"),
        lambda t: t["kv"].update(extends=1),
        lambda t: t["kv"].pop("extends"),
        lambda t: t["kv"].update(reads=2),
        lambda t: t["precision"].update(kv="a b"),
        lambda t: t["prefill"].update(exits=[1]),
        lambda t: t["prefill"].update(method="pdrop"),
        lambda t: t["text"].update(axes=1),
        lambda t: t["text"].update(pad_id=7),
        lambda t: t["vision"].update(grid=[2, 3]),
        lambda t: t["stages"].append(t["stages"][0]),
        lambda t: t["stages"][0].update(layer=0),
        lambda t: t["stages"].pop(),
        lambda t: t["stages"][0]["inputs"].append(_WEIGHT),
        lambda t: t["stages"].append(t["stages"][0] | {"stage": "unpack", "outputs": [_WEIGHT]}),
        lambda t: t["files"].pop("processor/image.json"),
    ],
)
def test_contradiction(library, capi, tiny, bundle_dir, edit):
    tiny.edit_manifest(bundle_dir, edit)
    with pytest.raises(BundleError):
        tiny.use(bundle_dir)
    _refused(library, capi, bundle_dir, "^manifest.json: ")


_WEIGHT = {"name": "unpacked_weight_0", "dtype": "int8", "shape": [4, 4]}


@pytest.fixture
def encoder_dir(tiny_encoder, tmp_path: Path) -> Path:
    """A good bundle that compares pictures with texts, which a test may damage."""
    return tiny_encoder.write(tmp_path / "encoder.bundle", "similarity")


def test_good_encoder_passes(library, encoder_dir):
    library.check(encoder_dir)


@pytest.mark.parametrize("name", ENCODERS.MALFORMED)
def test_malformed_manifest_of_an_encoder(library, capi, encoder_dir, name):
    ENCODERS.malform(encoder_dir, name)
    text = _refused(library, capi, encoder_dir, ENCODERS.MALFORMED[name][1])
    assert text.startswith("manifest.json: ")


@pytest.mark.parametrize("name", ENCODERS.GRAPHS)
def test_graph_of_an_encoder_is_not_admitted(library, capi, tiny_encoder, encoder_dir, name):
    edit, message = ENCODERS.GRAPHS[name]
    tiny_encoder.edit_graph(encoder_dir, "encode_2", edit)
    text = _refused(library, capi, encoder_dir, message)
    assert text.startswith("onnx/ort/encode_2.onnx: graph not admitted: ")


@pytest.mark.parametrize("name", FILES)
def test_file_of_an_encoder_that_is_not_what_was_published(library, capi, encoder_dir, name):
    damage, message = FILES[name]
    damage(encoder_dir)
    _refused(library, capi, encoder_dir, message)


@pytest.mark.parametrize(
    ("make", "path", "value", "message"),
    OF_ENCODERS.CONTRADICTIONS,
    ids=[f"{row[0].__name__} {row[1]}" for row in OF_ENCODERS.CONTRADICTIONS],
)
def test_contradiction_of_an_encoder(library, capi, tmp_path, make, path, value, message):
    (tmp_path / "manifest.json").write_bytes(OF_ENCODERS.contradict(make, path, value))
    message = "invalid value" if message.startswith("Invalid enum value") else re.escape(message)
    text = _refused(library, capi, tmp_path, message)
    assert text.startswith("manifest.json: ")


@pytest.mark.parametrize("make", [OF_ENCODERS.classifier, OF_ENCODERS.comparer])
def test_what_was_contradicted_is_good_itself(library, capi, tmp_path, make):
    (tmp_path / "manifest.json").write_bytes(encode_strict(make()))
    _refused(library, capi, tmp_path, "missing")  # its files, nothing before


def _answers(library, capi, tiny, folder: Path) -> tuple[bool, bool]:
    """Whether each reader takes the bundle; what else than a refusal happens is an error."""
    try:
        tiny.use(folder)
        python = True
    except BundleError:
        python = False
    try:
        library.check(folder)
        return python, True
    except capi.Failure as failure:
        assert failure.status == 3, failure
        return python, False


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    file=st.sampled_from(["manifest.json", "onnx/ort/tower.onnx", "processor/image.json"]),
    edits=st.lists(
        st.tuples(st.integers(0, 1 << 13), st.integers(0, 4), st.binary(max_size=4)),
        min_size=1,
        max_size=3,
    ),
)
def test_both_take_or_both_refuse(library, capi, tiny, tmp_path_factory, file, edits):
    folder = tmp_path_factory.mktemp("edited") / "tiny.bundle"
    tiny.write(folder)
    data = (folder / file).read_bytes()
    for at, length, replacement in edits:
        at %= len(data)
        data = data[:at] + replacement + data[at + length :]
    (folder / file).write_bytes(data)
    if file != "manifest.json":
        tiny.seal(folder)
    python, cpp = _answers(library, capi, tiny, folder)
    assert python == cpp


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    file=st.sampled_from(["manifest.json", "manifest.json", "onnx/ort/describe.onnx"]),
    edits=st.lists(
        st.tuples(st.integers(0, 1 << 13), st.integers(0, 4), st.binary(max_size=4)),
        min_size=1,
        max_size=3,
    ),
)
def test_both_take_or_both_refuse_encoders(
    library, capi, tiny_encoder, tmp_path_factory, file, edits
):
    folder = tmp_path_factory.mktemp("edited") / "tiny.bundle"
    tiny_encoder.write(folder, "similarity")
    data = (folder / file).read_bytes()
    for at, length, replacement in edits:
        at %= len(data)
        data = data[:at] + replacement + data[at + length :]
    (folder / file).write_bytes(data)
    if file != "manifest.json":
        tiny_encoder.seal(folder)
    python, cpp = _answers(library, capi, tiny_encoder, folder)
    assert python == cpp


def test_tool_says_what_a_bundle_holds(build, bundle_dir):
    done = subprocess.run(
        [build / "edgetok-cpp", "inspect", bundle_dir], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[2:] == [
        "rung 2: 3 prompt tokens, 2 new tokens",
        "rung 4: 3 prompt tokens, 2 new tokens",
    ]
    (bundle_dir / "weights" / "model.bin").write_bytes(b"")
    done = subprocess.run(
        [build / "edgetok-cpp", "inspect", bundle_dir], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "0 bytes, but the manifest says" in done.stderr
