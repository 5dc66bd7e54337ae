"""`edgetok doctor` reports what it tried, and fails when nothing can run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgetok.errors import IncompatibleError
from edgetok.runtimes.backends import kernel_support as probe
from edgetok.runtimes.backends import providers
from edgetok.runtimes.device import installed

from .conftest import Run


def test_cpu_provider_runs_a_real_graph(edgetok: Run) -> None:
    done = edgetok("doctor", "--json")
    assert done.code == 0
    results = {row["provider"]: row["result"] for row in done.json["providers"]}
    assert results["CPUExecutionProvider"] == "runs"
    assert done.json["packages"]["onnxruntime"]
    assert done.json["machine"]["cores"] >= 1
    assert done.json["problems"] == []


def test_it_reads_well(edgetok: Run) -> None:
    done = edgetok("doctor")
    assert done.err == ""
    assert "CPUExecutionProvider  runs" in done.out
    assert done.out.rstrip().endswith("no problems found")


def test_two_builds_of_onnxruntime_are_a_problem(
    edgetok: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = {"onnxruntime", "onnxruntime-gpu"}
    monkeypatch.setattr(providers, "installed_wheels", lambda: both)
    done = edgetok("doctor", "--json")
    assert done.code == IncompatibleError.exit_code
    assert done.json["ok"] is False
    assert done.json["error"]["code"] == "incompatible"
    message = done.json["error"]["message"]
    assert "pip uninstall -y" in message
    assert all(wheel in message for wheel in both)
    assert done.json["packages"]["numpy"], "the report is there all the same"


def test_a_provider_that_cannot_start_is_shown_with_its_reason(
    edgetok: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    # Listed, as a wheel for another device lists it, and of no use here.
    listed = ["CoreMLExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    rows = {row["provider"]: row["result"] for row in edgetok("doctor", "--json").json["providers"]}
    assert rows["CoreMLExecutionProvider"].startswith("fails: ")
    assert rows["CPUExecutionProvider"] == "runs"


def test_it_says_which_caches_attention_takes(edgetok: Run) -> None:
    (row,) = (
        row
        for row in edgetok("doctor", "--json").json["providers"]
        if row["provider"] == "CPUExecutionProvider"
    )
    assert row["kv"] == {"int8": "runs", "int4": "runs"}
    assert probe.try_kv_bits("NoSuchExecutionProvider", 8).startswith("fails: ")
    with pytest.raises(IncompatibleError, match="--kv fp32"):
        probe.require_kv_bits("NoSuchExecutionProvider", 4)


def test_a_jetson_is_told_what_to_install(
    edgetok: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    driver, tegra = tmp_path / "version", tmp_path / "nv_tegra_release"
    driver.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release\n"
    )
    tegra.write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n")
    monkeypatch.setattr(installed, "_DRIVER", driver)
    monkeypatch.setattr(installed, "_TEGRA", tegra)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    done = edgetok("doctor", "--json")
    assert done.code == 0
    assert done.json["gpu"]["nvidia driver"] == "540.4.0"
    assert done.json["gpu"]["jetpack"] == "6 (L4T 36.4.3)"
    told = "\n".join(done.json["advice"])
    assert "apt install python3-libnvinfer" in told and "cuda-bindings" in told
    assert "edgetok[gpu]" not in told  # there is no wheel for it
    assert "install: TensorRT" in edgetok("doctor").out


def test_a_workstation_with_a_driver_is_told_of_the_gpu_wheel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpu = {"nvidia driver": "580.1", "jetpack": "none", "gpu": "RTX, sm86, …", "cudnn": "none"}
    gpu |= {"tensorrt": "11.0", "tensorrt_rtx": "none: …"}
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert [text.partition(":")[0] for text in installed.advise(gpu, [])] == [
        "ONNX Runtime on the GPU"
    ]
    assert installed.advise(gpu, ["CUDAExecutionProvider"]) == []
