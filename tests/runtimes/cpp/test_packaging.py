"""The library as others get it: installed, found by CMake and pkg-config, under sanitizers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgetok

ROOT = Path(__file__).parents[3]
CPP = ROOT / "runtimes" / "cpp"


def _run(*words: object, **options) -> str:
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def asked(tiny_vlm, tmp_path_factory):
    """A bundle, a picture's file, the ids of a prompt as words, and Python's answer."""
    folder = tmp_path_factory.mktemp("asked")
    bundle = tiny_vlm.write(folder / "tiny.bundle", tiny_vlm.Recipe(stop_ids=()))
    (folder / "frames").mkdir()
    picture = np.random.default_rng(8).integers(0, 256, (12, 10, 3), np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(picture).save(folder / "frames" / name)
    model = edgetok.load(bundle, threads=1)
    prompt = model.processor.encode("Hi")
    words = [" ".join(map(str, side)) for side in (prompt.before, prompt.after)]
    answer = model.generate(picture, "Hi")
    return bundle, folder / "frames", words, " ".join(map(str, answer.token_ids))


def test_examples_answer_as_python_does(build, asked):
    bundle, frames, words, tokens = asked
    said = _run(build / "examples" / "01_answer", bundle, frames / "a.png", *words)
    assert said.splitlines()[0].strip() == tokens
    lines = _run(build / "examples" / "02_camera_loop", bundle, frames, *words).splitlines()
    assert [line.rsplit(": ", 1)[1] for line in lines] == [tokens] * 2
    assert "tower 0.0 ms" in lines[1]  # the second frame repeats the first
    assert "tower 0.0 ms" not in lines[0]


def test_examples_say_what_is_wrong(build, asked, tmp_path):
    done = subprocess.run(
        [build / "examples" / "01_answer", tmp_path / "none", "x", "1", "2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "no such directory" in done.stderr


def test_only_the_interface_is_exported(build):
    names = _run("nm", "-D", "--defined-only", "-C", build / "libedgetok.so").splitlines()
    strong = [line.split(" ", 2)[2] for line in names if line.split(" ", 2)[1] == "T"]
    assert strong
    assert all(name.startswith("edgetok_") for name in strong), strong
    assert not any("edgetok_impl" in line for line in names)


@pytest.mark.slow
def test_installed_library_is_found(build, asked, tmp_path):
    bundle, frames, words, tokens = asked
    prefix = tmp_path / "prefix"
    _run("cmake", "--install", build, "--prefix", prefix)
    _run("cmake", "-S", CPP / "examples", "-B", tmp_path / "cmake", f"-DCMAKE_PREFIX_PATH={prefix}")
    _run("cmake", "--build", tmp_path / "cmake")
    said = _run(tmp_path / "cmake" / "01_answer", bundle, frames / "a.png", *words)
    assert said.splitlines()[0].strip() == tokens

    library = next(prefix.rglob("libedgetok.so")).parent
    found = os.environ | {"PKG_CONFIG_PATH": str(library / "pkgconfig")}
    flags = _run(
        "pkg-config",
        "--cflags",
        "--libs",
        f"--define-variable=prefix={prefix}",
        "edgetok",
        env=found,
    ).split()
    program = tmp_path / "by-pkg-config"
    _run("cc", CPP / "examples" / "01_answer.c", *flags, f"-Wl,-rpath,{library}", "-o", program)
    said = _run(program, bundle, frames / "a.png", *words)
    assert said.splitlines()[0].strip() == tokens


@pytest.mark.slow
def test_static_library_serves_the_same(build, asked):
    _run(CPP / "build.sh", sys.executable, "static")
    bundle, frames, words, tokens = asked
    static = ROOT / "build" / "cpp" / "static" / "examples" / "01_answer"
    assert _run(static, bundle, frames / "a.png", *words).splitlines()[0].strip() == tokens
