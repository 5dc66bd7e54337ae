"""What the build gives: examples that answer, a library that exports its interface and no more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CPP = ROOT / "runtimes" / "cpp"


def test_examples_answer_as_python_does(build, run, asked):
    asked.expect(run(build / "examples" / "01_answer", *asked.words))
    frames = asked.picture.parent
    lines = run(
        build / "examples" / "02_camera_loop", asked.bundle, frames, *asked.words[2:]
    ).splitlines()
    assert [line.rsplit(": ", 1)[1] for line in lines] == [asked.tokens] * 2
    assert "tower 0.0 ms" in lines[1]  # the second frame repeats the first
    assert "tower 0.0 ms" not in lines[0]


def test_examples_say_what_is_wrong(build, tmp_path):
    done = subprocess.run(
        [build / "examples" / "01_answer", tmp_path / "none", "x", "1", "2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "no such directory" in done.stderr


def test_only_the_interface_is_exported(build, run):
    lines = run("nm", "-D", "--defined-only", build / "libedgetok.so").splitlines()
    names = {line.split()[2] for line in lines}
    header = (CPP / "include" / "edgetok" / "edgetok.h").read_text()
    assert "edgetok_bundle_open" in names
    assert not {name for name in names if f" {name}(" not in header.replace("*", " ")}


def test_the_name_tells_which_versions_fit(build, run, library):
    major, minor, _ = library.raw.edgetok_version().decode().split(".")
    assert f"soname: [libedgetok.so.{major}.{minor}]" in run(
        "readelf", "-d", build / "libedgetok.so"
    )


@pytest.mark.slow
def test_static_library_serves_the_same(build, run, asked):
    run(CPP / "build.sh", sys.executable, "static")
    asked.expect(run(ROOT / "build" / "cpp" / "static" / "examples" / "01_answer", *asked.words))
