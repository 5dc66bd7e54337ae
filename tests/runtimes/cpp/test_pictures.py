"""Several pictures of a prompt: the same answers as in Python, and pictures that are used again."""

from __future__ import annotations

import ctypes
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgetok

COUNT = 2


def shown(seed: int, count: int = COUNT) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (9 + at, 20 - at, 3), np.uint8) for at in range(count)]


class Both:
    """One bundle in both libraries."""

    def __init__(self, library: Any, capi: ModuleType, folder: Path) -> None:
        self.python = edgetok.load(folder, threads=1)
        self.cpp = capi.Model(capi.Bundle(library, folder), threads=1)

    def join(self, pictures: list[np.ndarray]) -> Any:
        return self.cpp.image_of_many([self.cpp.image(picture) for picture in pictures])

    def ask(self, image: Any, **request: Any) -> Any:
        prompt = self.python.processor.encode("What is it?")
        return self.cpp.generate(image, prompt.before, prompt.after, prompt.question, **request)

    def require_same(self, pictures: list[np.ndarray], **request: Any) -> list[int]:
        self.python.forget()
        want = self.python.generate(pictures, "What is it?", **request)
        found = self.ask(self.join(pictures), **request)
        assert found.tokens == list(want.token_ids)
        assert found.kept == list(want.kept)
        assert found.signals == want.signals
        return found.kept


@pytest.fixture(scope="module")
def both(library, capi, tiny_vlm, tmp_path_factory) -> Both:
    folder = tmp_path_factory.mktemp("pictures") / "tiny.bundle"
    tiny_vlm.write(folder, tiny_vlm.Recipe(stop_ids=(), pictures=COUNT))
    return Both(library, capi, folder)


def test_answers_and_pixels_are_equal(both: Both) -> None:
    kept = set()
    for seed in range(3):
        for pictures in (shown(seed), shown(seed)[::-1]):
            pixels = [both.python.processor.pixels(picture).ravel() for picture in pictures]
            np.testing.assert_array_equal(both.join(pictures).pixels, np.concatenate(pixels))
            for budget in both.python.ladder.budgets:
                kept.add(tuple(both.require_same(pictures, budget=budget)))
    assert len(kept) == 3 * 2 * 3  # their order matters


def test_the_tower_looks_at_a_picture_once(both: Both) -> None:
    """Of a video, the frame that two prompts share."""
    first, second, third = (both.cpp.image(picture) for picture in shown(5, 3))
    both.ask(both.cpp.image_of_many([first, second]), budget=4)
    del first  # what it was joined with does not need it
    slid = both.cpp.image_of_many([second, third])
    found = both.ask(slid, budget=8)
    assert found.timings["tower_ms"] > 0
    assert both.ask(slid, budget=4).timings["tower_ms"] == 0
    again = both.cpp.image_of_many([third, second])
    both.ask(again, budget=8)
    both.python.forget()
    want = both.python.generate(shown(5, 3)[1:], "What is it?", budget=8)
    assert found.tokens == list(want.token_ids)
    assert both.ask(both.cpp.image_of_many([second, third]), budget=8).tokens == found.tokens


def test_what_cannot_be_joined(both: Both, library, capi, tiny_vlm, tmp_path: Path) -> None:
    pictures = [both.cpp.image(picture) for picture in shown(0, 3)]
    raw, made = library.raw, ctypes.c_void_p(1)
    for given, message in (
        (pictures[:1], "1 picture was given and prompts of this bundle have 2; give 2"),
        (pictures, "3 pictures were given and .* export with --images 3"),
        ([], "0 pictures were given"),
        ([pictures[0], both.join(shown(1))], "is several already"),
    ):
        with pytest.raises(capi.Failure, match=message) as caught:
            both.cpp.image_of_many(given)
        assert caught.value.status == 2
    with pytest.raises(capi.Failure, match="1 picture was given"):
        both.ask(pictures[0])
    with pytest.raises(capi.Failure, match="reads no weights of pictures"):
        both.ask(both.join(shown(1)), weights=[1.0, 2.0])
    holes = (ctypes.c_void_p * 2)(pictures[0].value, None)
    assert raw.edgetok_image_from_many(both.cpp.value, holes, 2, ctypes.byref(made)) == 2
    assert (raw.edgetok_message(), made.value) == (b"a picture is NULL", None)
    assert raw.edgetok_image_from_many(both.cpp.value, None, 2, ctypes.byref(made)) == 2
    one = tiny_vlm.write(tmp_path / "one.bundle", tiny_vlm.Recipe(seed=1, pictures=COUNT))
    other = Both(library, capi, one)
    with pytest.raises(capi.Failure, match="prepared for another bundle"):
        other.cpp.image_of_many(pictures[:2])


def test_the_tool_shows_a_picture_as_often(build: Path, tiny_vlm, tmp_path: Path) -> None:
    recipe = tiny_vlm.Recipe(pictures=COUNT, budgets=(4,))
    folder = tiny_vlm.write(tmp_path / "tiny.bundle", recipe)
    Image.fromarray(shown(0)[0]).save(tmp_path / "picture.png")
    told = subprocess.check_output([build / "edgetok-cpp", "inspect", folder], text=True)
    assert "2 pictures in a prompt" in told
    asked = [folder, tmp_path / "picture.png", "2 9", "10 11", "2"]
    measured = subprocess.check_output([build / "edgetok-cpp", "measure", *asked], text=True)
    assert json.loads(measured)["budget"] == 4


@pytest.mark.slow
def test_methods_divide_the_budget_as_they_are_told(
    library, capi, load_helper: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    from edgetok.export.pipeline import export_model

    families = load_helper("families/tiny_families")
    families.write_tiny(tmp_path / "model", "llava_onevision")
    sizes = {"parity_images": 1, "prompt_tokens": 48, "new_tokens": 16}
    folder, options = tmp_path / "x.bundle", {"method": "quota", "budgets": "7,full"}
    export_model(tmp_path / "model", folder, pictures=3, **options, **sizes)
    both = Both(library, capi, folder)
    for seed in range(3):
        for budget in both.python.ladder.budgets:
            for weights in (None, [0, 2, 5], [1, 1, 1]):
                given = {} if weights is None else {"weights": weights}
                both.require_same(shown(seed, 3), budget=budget, **given)
    image = both.join(shown(0, 3))
    counts = [np.bincount(np.array(both.ask(image, budget=7, **given).kept) // 16).tolist()
              for given in ({}, {"weights": [0, 2, 5]}, {})]  # fmt: skip
    assert counts == [[3, 2, 2], [0, 2, 5], [3, 2, 2]]
    for bad in ([1, 2], [0, 0, 0], [1, -1, 1], [1, float("nan"), 1], [1, 1e30, 1], [1] * 65):
        with pytest.raises(capi.Failure, match="weights") as caught:
            both.ask(image, weights=bad)
        assert caught.value.status == 2
