"""Real engines of TensorRT for RTX, built here for GPUs that need not be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper

from edgetok.bundle.reader import Bundle
from edgetok.cli.app import execute
from edgetok.cli.build import parse_size
from edgetok.engines.build import build_engine, make_logger
from edgetok.engines.builder import EngineBuilder
from edgetok.engines.cache import EngineCache
from edgetok.engines.plan import plan_engines, widen_softmax
from edgetok.engines.toolkit import Target, find_toolkit, parse_target
from edgetok.errors import IncompatibleError, ResourceError, UsageError
from edgetok.export.pipeline import export_model

pytest.importorskip(
    "tensorrt_rtx", reason="pip install 'edgetok[rtx]'; engines build without a GPU"
)
TWO = Target("rtx", ("sm75", "sm86"))


def test_every_stage_at_every_rung_builds_for_two_architectures(
    portable_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["build", str(portable_bundle), "--target", "rtx:sm75,sm86", "--json"]
    assert execute(command) == 0
    first = json.loads(capsys.readouterr().out)
    stages = {"tower", "embed", "extend", "decode", "prefill"}
    built = {row["engine"]: row for row in first["engines"]}
    assert built.keys() == stages | {f"compress_{k}" for k in (4, 8, 16)}
    assert built["prefill"]["budgets"] == [4, 8, 16]
    assert not any(row["cached"] for row in built.values())
    assert execute(command) == 0
    again = json.loads(capsys.readouterr().out)
    assert all(row["cached"] for row in again["engines"]) and again["bytes"] == first["bytes"]
    folder = Path(first["cache"])
    assert folder.is_relative_to(os.environ["EDGETOK_CACHE_DIR"])
    assert {p.stat().st_mode & 0o077 for p in folder.rglob("*")} == {0}
    assert not [p for p in folder.rglob(".*") if p.is_file()]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_precisions_build_where_the_gpu_has_them(
    portable_bundle: Path, precision: str
) -> None:
    jobs = plan_engines(Bundle.open(portable_bundle), flavour="portable", precision=precision)
    toolkit, decode = find_toolkit("rtx"), jobs[-1]
    build_engine(decode, portable_bundle, toolkit, Target("rtx", ("sm86", "sm120")))
    with pytest.raises(IncompatibleError, match="sm75"):
        build_engine(decode, portable_bundle, toolkit, Target("rtx", ("sm75",)))


def test_engines_of_a_quantized_embedding_build(model_dir: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "int8.bundle", {"prompt_tokens": 32, "new_tokens": 8}
    options |= {"budgets": "4", "flavour": "portable", "weights": "int8", "parity_images": 1}
    export_model(model_dir, out, **options)
    toolkit, target = find_toolkit("rtx"), Target("rtx", ("sm86",))
    jobs = {job.name: job for job in plan_engines(Bundle.open(out), flavour="portable")}
    for name in ("embed", "decode"):  # whose constants TensorRT takes before DequantizeLinear alone
        assert build_engine(jobs[name], out, toolkit, target).data


def test_an_exception_of_the_waiting_thread_ends_the_build(portable_bundle: Path) -> None:
    """As Ctrl-C does: nothing is published and no thread goes on."""
    opened, cache = Bundle.open(portable_bundle), EngineCache()
    job = plan_engines(opened, flavour="portable", precision="bf16")[-1]

    def interrupt(doing: str, share: float) -> None:
        raise KeyboardInterrupt

    target = Target("rtx", ("sm89",))
    builder = EngineBuilder(opened, find_toolkit("rtx"), target, cache, progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        builder.build(job)
    assert cache.read(cache.path(builder.describe(job))) is None
    assert not [t.name for t in threading.enumerate() if t.name.startswith("engine")]


def test_a_signal_ends_the_command(portable_bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgetok.cli", "-v", "build", str(portable_bundle), "--again"]
    environment = os.environ | {"EDGETOK_CACHE_DIR": str(tmp_path)}
    process = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:  # the first engine is being built
        if "building" in line:
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not [p for p in tmp_path.rglob(".*") if p.is_file()]


def test_what_would_not_fit_is_refused_before_it_starts(portable_bundle: Path) -> None:
    opened = Bundle.open(portable_bundle)
    whole = plan_engines(opened, flavour="portable")
    joined = next(job for job in whole if len(job.stages) > 1)
    split = plan_engines(opened, flavour="portable", max_build_bytes=joined.peak_bytes - 1)
    assert {f"prefill_{k}" for k in (4, 8, 16)} < {job.name for job in split}
    assert max(job.peak_bytes for job in split) < joined.peak_bytes
    with pytest.raises(ResourceError, match="--max-build-memory is 50 MiB"):
        plan_engines(opened, flavour="portable", max_build_bytes=50 << 20)


def test_softmax_of_one_dimension_is_spelled_as_tensorrt_takes_it() -> None:
    ends = [helper.make_tensor_value_info(name, 1, [7]) for name in "xy"]
    nodes = [helper.make_node("Softmax", ["x"], ["y"], axis=0)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    wide = widen_softmax(model)
    x = np.arange(7, dtype=np.float32)
    session = ort.InferenceSession(wide.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], np.exp(x) / np.exp(x).sum(), 1e-5)
    toolkit = find_toolkit("rtx")
    network = toolkit.module.Builder(make_logger(toolkit.module)).create_network(0)
    parser = toolkit.module.OnnxParser(network, make_logger(toolkit.module))
    assert parser.parse(wide.SerializeToString())


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("rtx:sm86,sm75", Target("rtx", ("sm75", "sm86"))),
        ("RTX", Target("rtx", ("sm80", "sm86", "sm89", "sm120"))),
        ("tensorrt", Target("tensorrt")),
    ],
)
def test_targets(text: str, target: Target) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize(
    "text", ["", "cuda", "rtx:", "rtx:sm50", "rtx:86", "tensorrt:sm86", "rtx:,"]
)
def test_unknown_targets_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_target(text)


@pytest.mark.parametrize(
    ("text", "size"), [("4GiB", 4 << 30), ("900 mb", 900 << 20), ("1.5g", 3 << 29), ("7", 7)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "0", "lots", "4 apples", "1e9", "9" * 40])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)
