"""`edgetok export`: what it prints, what it refuses, and what an interrupted one leaves."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgetok.bundle.reader import Bundle

from .conftest import Run

SMALL = (
    "--budgets",
    "4,full",
    "--prompt-tokens",
    "64",
    "--new-tokens",
    "8",
    "--parity-images",
    "1",
)


def test_export_prints_one_object_and_publishes(
    edgetok: Run, model_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.bundle"
    done = edgetok("export", model_dir, "-o", out, *SMALL, "--json")
    assert (done.code, done.json["ok"]) == (0, True)
    assert done.json["bundle"] == str(out)
    assert done.json["digest"] == f"sha256:{Bundle.open(out).digest}"
    assert done.json["parity"]["checks"]
    again = edgetok("export", model_dir, "-o", out, *SMALL)
    assert (again.code, again.out) == (2, "")
    assert "use --force to replace it" in again.err
    assert [path.name for path in tmp_path.iterdir()] == ["out.bundle"]


def test_the_bundle_says_that_sinks_are_masked(
    edgetok: Run, model_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.bundle"
    done = edgetok("export", model_dir, "-o", out, *SMALL, "--method", "hired", "--mask-sinks")
    assert done.code == 0
    assert Bundle.open(out).manifest.method == "hired+masked-sinks"


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--method", "magic"), 2, "no method 'magic'"),
        (("--method", "pool", "--mask-sinks"), 2, "pool does not rank patches by attention"),
        (("--scorer", "missing.safetensors"), 2, "visionzip has no trained scorer"),
        (("--budgets", "0"), 2, "budget 0 is outside 1..16"),
        (("--tiles", "two"), 2, "--tiles 'two' is no pair of numbers; write it like 2x3"),
        (("--tiles", "2x2"), 2, "leave --tiles out"),
        (("--image-size", "64x64"), 2, "leave --image-size out"),
        (("--image-size", "64x99999"), 2, "a side may have 1 to 4096"),
        (("--budgets", "17"), 2, "budget 17 is outside 1..16"),
        (("--budgets", "four"), 2, "'four' is no whole number"),
        (("--prompt-tokens", "0"), 2, "prompt tokens 0"),
        (("--seed", "-1"), 2, "seed -1 is negative"),
        (("--samples", "missing.jsonl", "--kv", "int8"), 5, "missing.jsonl"),
    ],
)
def test_refusals_leave_nothing_behind(
    edgetok: Run, model_dir: Path, tmp_path: Path, options: tuple[str, ...], code: int, words: str
) -> None:
    done = edgetok("export", model_dir, "-o", tmp_path / "out.bundle", *SMALL, *options)
    assert (done.code, done.out) == (code, "")
    assert words in done.err
    assert not list(tmp_path.iterdir())


def test_a_directory_that_is_no_model_is_5(edgetok: Run, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    done = edgetok("export", empty, "-o", tmp_path / "out.bundle", "--json")
    assert (done.code, done.json["error"]["code"]) == (5, "input")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_without_torch_the_extra_is_named(model_dir: Path, tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['torch'] = None; "
        "from edgetok.cli.app import main; main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", script, "export", str(model_dir), "-o", "out.bundle"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (4, "")
    assert 'pip install "edgetok[export]"' in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_6_and_leaves_nothing(model_dir: Path, tmp_path: Path) -> None:
    """No file may grow beyond 32 KiB, which the weights in scratch space do."""
    command = [sys.executable, "-m", "edgetok.cli", "export", str(model_dir), "-o", "out.bundle"]
    done = subprocess.run(
        [*command, *SMALL],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 15, 1 << 15)),
    )
    assert (done.returncode, done.stdout) == (6, ""), done.stderr
    assert "scratch space cannot be had" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "code", "grown"),
    [(signal.SIGINT, 130, "*.tmp-*"), (signal.SIGTERM, 143, "*.tmp-*/onnx/ort/*.onnx")],
)
def test_a_signal_in_the_middle_leaves_nothing(
    model_dir: Path, tmp_path: Path, number: signal.Signals, code: int, grown: str
) -> None:
    """Both while the model is traced and once graphs have been written."""
    command = [sys.executable, "-m", "edgetok.cli", "export", str(model_dir)]
    process = subprocess.Popen(
        [*command, "-o", "out.bundle", *SMALL],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob(grown)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, ""), err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_a_policy_and_its_bytes_are_shown(edgetok: Run, model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "kept.bundle"
    options = ["--budgets", "full", "--prompt-tokens", "48", "--new-tokens", "8"]
    policy = ["--kv-policy", "streaming", "--kv-slots", "40", "--parity-images", "1"]
    made = edgetok("export", model_dir, "-o", out, *options, *policy, "--json")
    assert made.code == 0, made.err
    shown = edgetok("inspect", out, "--json").json
    assert (shown["kv"]["policy"], shown["kv"]["keep"]) == ("streaming", [35, 35])
    # Two layers of 40 rows and a scratch of 35: keys and values of 2 heads of 16 float32.
    assert shown["cache_bytes"] == (2 * 40 + 35) * 2 * 2 * 16 * 4
    assert shown["cache_bytes_by_flavour"] == {"ort": shown["cache_bytes"]}
    text = edgetok("inspect", out).out
    assert "streaming: a full layer keeps 35 rows, without end" in text


def test_policies_are_refused_in_one_sentence(edgetok: Run, model_dir: Path, tmp_path: Path):
    refused = edgetok(
        "export", model_dir, "-o", tmp_path / "x", "--kv-policy", "h2o", "--kv-slots", "2"
    )
    assert refused.code == 2
    assert "raise --kv-slots to" in refused.err and "Traceback" not in refused.err
