"""The C library, built once; and what other tests know that both libraries must agree about."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import edgetok

ROOT = Path(__file__).parents[3]
BUILD = ROOT / "build" / "cpp" / "shared"
pytest.register_assert_rewrite("pair")
NOT_TO_BE_HAD = 69  # exit code of the script where packages cannot be installed


def _load(path: Path) -> ModuleType:
    """A module by its path: test folders are no packages."""
    if path.stem in sys.modules:
        return sys.modules[path.stem]
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def build() -> Path:
    """The folder of the shared build, up to date; the script gets what it needs.

    EDGETOK_CPP_BUILD names another one that is built already.
    """
    if "EDGETOK_CPP_BUILD" in os.environ:
        return Path(os.environ["EDGETOK_CPP_BUILD"])
    script = ROOT / "runtimes" / "cpp" / "build.sh"
    done = subprocess.run([script, sys.executable], capture_output=True, text=True, check=False)
    if done.returncode == NOT_TO_BE_HAD:
        pytest.skip(f"no compiler or library to build with: {done.stderr[-400:]}")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return BUILD


@pytest.fixture(scope="session")
def capi() -> ModuleType:
    """The module benchmarks/cpp_library.py."""
    return _load(ROOT / "benchmarks" / "cpp_library.py")


@pytest.fixture(scope="session")
def library(build: Path, capi: ModuleType):
    """The library under ctypes."""
    return capi.Library(build / "libedgetok.so")


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The module tests/bundle/tiny.py."""
    return _load(ROOT / "tests" / "bundle" / "tiny.py")


@pytest.fixture
def bundle_dir(tiny: ModuleType, tmp_path: Path) -> Path:
    """A good bundle that a test may damage."""
    tiny.write(tmp_path / "tiny.bundle")
    return tmp_path / "tiny.bundle"


@dataclass(frozen=True)
class Asked:
    """A question, and what Python answered."""

    bundle: Path
    picture: Path
    before: str  # token ids, as programs take them
    after: str
    tokens: str

    @property
    def words(self) -> tuple[str, ...]:
        """The arguments of examples/01_answer.c."""
        return str(self.bundle), str(self.picture), self.before, self.after

    def expect(self, said: str) -> None:
        """A program's first line is Python's answer."""
        assert said.splitlines()[0].strip() == self.tokens


@pytest.fixture(scope="session")
def asked(tiny_vlm, tmp_path_factory) -> Asked:
    """A question about one of two equal pictures in a folder."""
    folder = tmp_path_factory.mktemp("asked")
    bundle = tiny_vlm.write(folder / "tiny.bundle", tiny_vlm.Recipe(stop_ids=()))
    frames = folder / "frames"
    frames.mkdir()
    picture = np.random.default_rng(8).integers(0, 256, (12, 10, 3), np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(picture).save(frames / name)
    model = edgetok.load(bundle, threads=1)
    prompt = model.processor.encode("Hi")
    before, after = (" ".join(map(str, side)) for side in (prompt.before, prompt.after))
    tokens = " ".join(map(str, model.generate(picture, "Hi").token_ids))
    return Asked(bundle, frames / "a.png", before, after, tokens)


@pytest.fixture(scope="session")
def run() -> Callable[..., str]:
    """Run a program, which must succeed, for what it prints."""

    def succeed(*words: object, **options) -> str:
        done = subprocess.run(
            [str(word) for word in words], capture_output=True, text=True, check=False, **options
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    return succeed


@pytest.fixture(scope="session")
def tiny_encoder() -> ModuleType:
    """The module tests/bundle/tiny_encoder.py."""
    return _load(ROOT / "tests" / "bundle" / "tiny_encoder.py")


@pytest.fixture(scope="session")
def pairs() -> ModuleType:
    """The module pair.py."""
    return _load(Path(__file__).with_name("pair.py"))
