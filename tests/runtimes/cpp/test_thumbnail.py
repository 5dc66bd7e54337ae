"""Thumbnails: the same numbers as in Python to the last bit, and so the same rungs."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest

from edgetok.bundle.manifest import digest_content
from edgetok.bundle.reader import Bundle
from edgetok.control.thumbnail import describe
from edgetok.rules import Certificate, Controller, Rule, Scorer, Thumbnail

SOURCES = Path(__file__).parents[3] / "runtimes" / "cpp" / "src"
DRIVER = """
#include "images/thumbnail.hpp"
extern "C" void run(const float* pixels, long height, long width, long cells, double* out) {
  for (double value : edgetok_impl::describe(pixels, height, width, cells)) *out++ = value;
}
"""


@pytest.fixture(scope="module")
def cells_of(tmp_path_factory) -> Callable[[np.ndarray, int], list[float]]:
    """The library's `describe`, which it does not export."""
    if (compiler := shutil.which("c++")) is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.cpp").write_text(DRIVER)
    sources = [str(folder / "driver.cpp"), str(SOURCES / "images" / "thumbnail.cpp")]
    options = ["-std=c++17", "-O2", "-ffp-contract=off", "-shared", "-fPIC"]
    includes = [f"-I{SOURCES}", f"-I{SOURCES.parent / 'include'}"]
    made = folder / "driver.so"
    subprocess.run([compiler, *options, *includes, *sources, "-o", str(made)], check=True)
    raw = ctypes.CDLL(str(made))
    raw.run.argtypes = [ctypes.c_void_p, *[ctypes.c_long] * 3, ctypes.c_void_p]

    def run(pixels: np.ndarray, cells: int) -> list[float]:
        out, kept = np.zeros(2 * cells**2), np.ascontiguousarray(pixels)
        raw.run(kept.ctypes.data, *kept.shape[1:], cells, out.ctypes.data)
        return out.tolist()

    return run


SHAPES = [
    *((8, 8, 8), (8, 9, 8), (17, 23, 4), (336, 336, 8), (378, 384, 8)),
    *((40, 1024, 1), (41, 1025, 1), (33, 2048, 2), (9, 9, 1), (3, 18_001, 2), (50, 1300, 3)),
]


def test_cells_are_numpy_s(cells_of) -> None:
    """Runs of pixels shorter and longer than those that NumPy adds up in one loop."""
    random = np.random.default_rng(0)
    drawn = [(*random.integers(16, 500, 2).tolist(), random.integers(1, 17)) for _ in range(40)]
    for height, width, cells in SHAPES + drawn:
        pixels = random.normal(size=(1, height, width, 3)).astype(np.float32)
        for laid in (pixels.transpose(0, 3, 1, 2), pixels.reshape(1, 3, height, width)):
            assert cells_of(laid[0], int(cells)) == describe(laid, int(cells))


def _controller(manifest: Any, cells: int) -> Controller:
    weights = np.random.default_rng(cells).normal(size=2 * cells**2, scale=3).tolist()
    thumbnail = Thumbnail(cells=cells, bias=0.25, weights=weights)
    certificate = Certificate(
        risk=0.05,
        confidence=0.95,
        loss="differs",
        unit="question",
        units=100,
        mean_loss=0.0,
        p_value=0.01,
        mean_tokens=5.0,
        data_sha256="0" * 64,
        bundle_sha256=digest_content(manifest),
        flavour="ort",
    )
    asks = Scorer(signals={"signal_complexity": 1.0})
    rules = [
        Rule(budget=budget, enter=asks, enter_at_most=most, accept=Scorer(), accept_at_most=0.0)
        for budget, most in ((4, -1.0), (8, 1.0))
    ]
    return Controller(rules=rules, full=16, certificate=certificate, cases=[], thumbnail=thumbnail)


@pytest.fixture(scope="module")
def answers(load_helper: Callable[[str], ModuleType]) -> ModuleType:
    """The module test_answers.py."""
    return load_helper("runtimes/cpp/test_answers")


@pytest.mark.parametrize("cells", [1, 3, 8])
def test_a_controller_that_looks_at_it_chooses_the_same_rung(
    answers, library, capi, tiny_vlm, tiny, tmp_path: Path, cells: int
) -> None:
    folder = tiny_vlm.write(tmp_path / "tiny.bundle")
    controller = _controller(Bundle.open(folder).manifest, cells)
    added = json.loads(msgspec.json.encode(controller))
    tiny.edit_manifest(folder, lambda tree: tree.update(controller=added))
    both = answers.Both(library, capi, folder)
    random, chosen = np.random.default_rng(7), []
    for _ in range(24):
        low, high = sorted(random.integers(0, 256, 2).tolist())
        picture = random.integers(low, high + 1, (9, 11, 3), np.uint8)
        both.require_same(picture, "Hi")
        found = both.ask_cpp(picture, "Hi", max_new_tokens=1)
        assert "signal_complexity" in found.signals
        chosen += found.tried
    assert len(set(chosen)) > 1


def test_a_picture_without_so_many_cells_is_refused(
    library, capi, tiny_vlm, tiny, answers, tmp_path: Path
) -> None:
    folder = tiny_vlm.write(tmp_path / "tiny.bundle")
    controller = _controller(Bundle.open(folder).manifest, 9)
    added = json.loads(msgspec.json.encode(controller))
    tiny.edit_manifest(folder, lambda tree: tree.update(controller=added))
    both = answers.Both(library, capi, folder)
    with pytest.raises(capi.Failure, match="8 x 8 pixels has no 9 x 9 cells") as caught:
        both.ask_cpp(np.zeros((8, 8, 3), np.uint8), "Hi")
    assert caught.value.status == 2
