"""`edgetok doctor` reports what it tried, and fails when nothing can run."""

from __future__ import annotations

import pytest

from edgetok.errors import IncompatibleError
from edgetok.runtimes import providers

from .conftest import Run


def test_cpu_provider_runs_a_real_graph(edgetok: Run) -> None:
    done = edgetok("doctor", "--json")
    assert done.code == 0
    assert {"provider": "CPUExecutionProvider", "result": "runs"} in done.json["providers"]
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
