"""What onnxruntime does with an admitted graph, on which docs/bundle-format.md relies."""

from pathlib import Path

import numpy as np
import pytest

from edgetok.bundle.reader import Bundle

ort = pytest.importorskip("onnxruntime")


def make_session(graph: bytes, root: Path, level=None):
    options = ort.SessionOptions()
    options.graph_optimization_level = level or ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(root)
    )
    options.add_session_config_entry("session.disable_prepacking", "1")
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def test_every_graph_runs_from_bytes_with_weights_below_the_root(tiny, bundle_dir, monkeypatch):
    monkeypatch.chdir("/")  # nothing is found relative to the working directory
    bundle = Bundle.open(bundle_dir)
    for stage in bundle.manifest.stages:
        session = make_session(bundle.graph(stage), bundle.root)
        dtypes = {"float32": np.float32, "int64": np.int64}
        feeds = {t.name: np.ones(t.shape, dtypes[t.dtype]) for t in stage.inputs}
        outputs = session.run(None, feeds)
        assert [list(value.shape) for value in outputs] == [t.shape for t in stage.outputs]


def test_weights_are_those_of_the_file(tiny, bundle_dir):
    bundle = Bundle.open(bundle_dir)
    session = make_session(bundle.graph(bundle.stage("embed", 2)), bundle.root)
    ids = np.array([0, 6, 3, 3, 1])
    (found,) = session.run(None, {"token_ids": ids})
    (shape, offset) = tiny.TENSORS["table"]
    table = np.frombuffer(bundle.read(tiny.WEIGHTS), np.float32, 7 * 12, offset).reshape(shape)
    assert (found == table[ids]).all()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_weights_are_mapped_not_read(tiny, bundle_dir):
    bundle = Bundle.open(bundle_dir)
    weights = str(bundle.path_of(tiny.WEIGHTS))

    def is_mapped() -> bool:
        return weights in Path("/proc/self/maps").read_text()

    assert not is_mapped()
    session = make_session(bundle.graph(bundle.stage("decode", 2)), bundle.root)
    assert is_mapped()
    del session
    assert not is_mapped()


def test_onnxruntime_alone_would_follow_a_path_through_the_parent(tiny, bundle_dir):
    """Why the location is checked here: as long as the path ends inside, it is taken."""
    bundle = Bundle.open(bundle_dir)
    data = bundle.graph(bundle.stage("decode", 2))
    good, odd = b"weights/model.bin", b"weights/../weights/model.bin"
    model = _with_location(data, odd.decode())
    assert make_session(model, bundle.root).get_outputs()[0].name == "logits"
    assert good in data


def test_onnxruntime_looks_for_its_own_format_first(tiny, bundle_dir):
    """Why bytes 4 to 8 are looked at: they decide which parser the whole file is given to."""
    bundle = Bundle.open(bundle_dir)
    data = b"\x12\x06..ORTM" + bundle.graph(bundle.stage("decode", 2))
    with pytest.raises(Exception, match=r"(?i)ort(?: format)? model|flatbuffer|ORT model"):
        make_session(data, bundle.root)


def _with_location(data: bytes, location: str) -> bytes:
    import onnx

    model = onnx.load_model_from_string(data)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    return model.SerializeToString()
