"""Odd surroundings, and what must never be shown."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Run

_BUG = """
from edgetok.cli.app import app, main

@app.command()
def fail(prompt: str, json: bool = False) -> None:
    local_copy = prompt
    raise ValueError(f"cannot parse {prompt}")

main()
"""
_SECRET = "my card number is 4111"


def run_bug(*options: str, debug: str | None = None) -> subprocess.CompletedProcess[str]:
    env = {} if debug is None else {"EDGETOK_DEBUG": debug}
    command = [sys.executable, "-c", _BUG, "fail", _SECRET, *options]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def test_a_bug_is_1_and_shows_no_prompt() -> None:
    done = run_bug()
    assert (done.returncode, done.stdout) == (1, "")
    assert "bug: ValueError at" in done.stderr
    assert "EDGETOK_DEBUG=1" in done.stderr
    assert "Traceback" not in done.stderr
    assert _SECRET not in done.stderr


def test_a_bug_in_json_is_one_object_without_the_prompt() -> None:
    done = run_bug("--json")
    assert json.loads(done.stdout)["error"]["code"] == "bug"
    assert _SECRET not in done.stdout + done.stderr


def test_debugging_shows_the_traceback_without_locals() -> None:
    done = run_bug(debug="1")
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "local_copy =" not in done.stderr


@pytest.mark.parametrize(
    "env",
    [
        {"HOME": None},
        {"HOME": "/proc/nowhere"},
        {"HOME": "/nonexistent", "XDG_CACHE_HOME": "/proc/nowhere"},
        {"TMPDIR": "/nonexistent"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
        {"COLUMNS": "20", "TERM": "dumb"},
    ],
)
def test_it_works_in_odd_surroundings(edgetok_process: Run, env: dict[str, str | None]) -> None:
    for arguments in (("methods",), ("doctor", "--json")):
        done = edgetok_process(*arguments, env=env)
        assert (done.code, done.err) == (0, "")


def test_nothing_is_reported_or_kept_by_onnxruntime(edgetok_process: Run, tmp_path: Path) -> None:
    """Its telemetry is on by default, and writes a device id into the home directory."""
    home = tmp_path / "home"
    home.mkdir()
    quiet = dict.fromkeys(("ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "CI"))
    env = {**quiet, "HOME": str(home), "XDG_CACHE_HOME": None, "XDG_DATA_HOME": None}
    assert edgetok_process("doctor", env=env).code == 0
    assert not list(home.iterdir())


def test_no_color_is_honoured_and_colour_can_be_forced(edgetok_process: Run) -> None:
    forced = {"FORCE_COLOR": "1", "TERM": "xterm-256color"}
    assert "\x1b[1m" in edgetok_process("methods", env={**forced, "NO_COLOR": None}).out
    plain = edgetok_process("methods", env={**forced, "NO_COLOR": "1"}).out
    assert "\x1b[3" not in plain, "no colours"


@pytest.mark.parametrize("verb", ["methods", "--help", "methods --json"])
def test_a_reader_that_stops_early_is_no_bug(tmp_path: Path, verb: str) -> None:
    command = f"{sys.executable} -m edgetok.cli {verb} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert (done.stdout, done.stderr) == ("141\n", "")


@pytest.mark.parametrize(("given", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_of_pytorch_wait_without_taking_time(given: str | None, found: str) -> None:
    """Unless the user has another wish; read by what a verb's own threads would start from."""
    code = "import os; from edgetok.cli.app import execute; execute(['--version'])\n"
    code += "print(os.environ['OMP_WAIT_POLICY'])"
    env = {} if given is None else {"OMP_WAIT_POLICY": given}
    ran = [sys.executable, "-c", code]
    done = subprocess.run(ran, capture_output=True, text=True, env=env, check=True)
    assert done.stdout.split()[-1] == found
