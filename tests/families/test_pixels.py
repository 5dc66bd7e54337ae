"""Pixels of fifty pictures per family against its Hugging Face class.

The class is called here as its users call it, not through the family's file. Where an export
chooses a size, or a grid of tiles, pictures have its proportions: then the class's own resize ends
there too. `test_image_plan.py` has the classes that resize and crop alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image
from transformers.image_processing_utils import select_best_resolution

from edgetok.bundle.processor import ImagePlan
from edgetok.families import llava_next, smolvlm
from edgetok.families.image_plan import plan_of, plan_stretched
from edgetok.images.preprocess import preprocess

COUNT = 50
SIZE_PX = (32, 48)
PATCH, MERGE, FRAMES = 4, 2, 2
VALUES = {"image_mean": [0.5, 0.4, 0.45], "image_std": [0.25, 0.3, 0.28]}
GRIDS = [[32, 64], [64, 32], [64, 64], [32, 96], [96, 32]]
SQUARE = {"size": {"height": 32, "width": 32}}
SMOL = {"size": {"longest_edge": 96}, "max_image_size": {"longest_edge": 32}, "do_pad": True}
NEXT = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}


def draw_free() -> Iterator[Image.Image]:
    """Noise of all proportions."""
    draw = np.random.default_rng(3)
    for _ in range(COUNT):
        height, width = draw.integers(1, 130, 2)
        yield Image.fromarray(draw.integers(0, 256, (height, width, 3), np.uint8))


def draw_alike() -> Iterator[Image.Image]:
    """Noise of the proportions 2 : 3, from 4 x 6 to 200 x 300 pixels."""
    draw = np.random.default_rng(4)
    for unit in range(1, COUNT + 1):
        yield Image.fromarray(draw.integers(0, 256, (4 * unit, 6 * unit, 3), np.uint8))


Ask = Callable[[Any, Image.Image], Any]
Plan = Callable[[dict[str, Any], Image.Image], ImagePlan]


def ask_plainly(processor: Any, picture: Image.Image) -> Any:
    return processor(images=picture, return_tensors="np")["pixel_values"]


def ask_first(processor: Any, picture: Image.Image) -> Any:
    """All parts of the one image."""
    return ask_plainly(processor, picture)[0]


def ask_one_of_two(processor: Any, picture: Image.Image) -> Any:
    """LLaVA-OneVision cuts no image of a prompt that has several."""
    return processor(images=[[picture, picture]], return_tensors="np")["pixel_values"][0]


def ask_thumbnail_last(processor: Any, picture: Image.Image) -> Any:
    pixels = ask_first(processor, picture)
    return np.concatenate([pixels[-1:], pixels[:-1]])


def ask_qwen(processor: Any, picture: Image.Image) -> Any:
    """Patches lie in groups of 2 x 2, each twice: as two frames."""
    out = processor(images=picture, return_tensors="np")
    (_, lines, columns) = out["image_grid_thw"][0]
    rows = iter(out["pixel_values"].reshape(-1, 3, FRAMES, PATCH, PATCH))
    whole = np.zeros((1, 3, lines * PATCH, columns * PATCH), np.float32)
    for top in range(0, lines, MERGE):
        for left in range(0, columns, MERGE):
            for y, x in np.ndindex(MERGE, MERGE):
                row, (down, across) = next(rows), ((top + y) * PATCH, (left + x) * PATCH)
                np.testing.assert_array_equal(row[:, 0], row[:, 1])
                whole[0, :, down : down + PATCH, across : across + PATCH] = row[:, 0]
    return whole


def ask_naflex(processor: Any, picture: Image.Image) -> Any:
    """Patches of 8 x 8 pixels line by line, channels last."""
    out = processor(images=picture, return_tensors="np")
    (lines, columns), rows = out["spatial_shapes"][0], iter(out["pixel_values"][0])
    whole = np.zeros((1, 3, lines * 8, columns * 8), np.float32)
    for line, column in np.ndindex(lines, columns):
        part = next(rows).reshape(8, 8, 3).transpose(2, 0, 1)
        whole[0, :, line * 8 : line * 8 + 8, column * 8 : column * 8 + 8] = part
    return whole


def plan_tiles(settings: dict[str, Any], picture: Image.Image) -> ImagePlan:
    """For the grid that transformers chooses for this picture."""
    height, width = select_best_resolution((picture.height, picture.width), GRIDS)
    return llava_next.plan_image(settings, 32, (height // 32, width // 32))


@dataclass(frozen=True)
class Case:
    """A class of transformers, what an export makes of its values, and pictures for both."""

    kind: str
    settings: dict[str, Any]
    ask: Ask = ask_plainly
    plan: Plan = lambda settings, _: plan_of(settings)
    draw: Callable[[], Iterator[Image.Image]] = draw_free
    parts: set[int] = field(default_factory=lambda: {1})


def _stretched(settings: dict[str, Any], _: Image.Image) -> ImagePlan:
    return plan_stretched(settings, SIZE_PX)


PIXELS = SIZE_PX[0] * SIZE_PX[1]
FAMILIES = {
    "llava": Case("LlavaImageProcessorPil", NEXT | {"do_pad": True}),
    "fast_vlm": Case("CLIPImageProcessorPil", NEXT),
    "paligemma": Case("SiglipImageProcessorPil", SQUARE),
    "llava_next": Case(
        "LlavaNextImageProcessorPil",
        NEXT | {"image_grid_pinpoints": GRIDS},
        ask_first,
        plan_tiles,
        parts={3, 4, 5},
    ),
    "llava_onevision": Case(
        "LlavaOnevisionImageProcessorPil",
        SQUARE | {"image_grid_pinpoints": GRIDS},
        ask_first,
        plan_tiles,
        parts={3, 4, 5},
    ),
    "llava_onevision whole": Case(
        "LlavaOnevisionImageProcessorPil",
        SQUARE | {"image_grid_pinpoints": GRIDS},
        ask_one_of_two,
        lambda settings, _: llava_next.plan_image(settings, 32, None),
    ),
    "internvl": Case("GotOcr2ImageProcessorPil", SQUARE | {"crop_to_patches": False}),
    "gemma3": Case("Gemma3ImageProcessorPil", SQUARE),
    "smolvlm": Case(
        "SmolVLMImageProcessorPil",
        SMOL,
        ask_thumbnail_last,
        lambda settings, _: smolvlm.plan_image(settings, 32, (2, 3)),
        draw_alike,
        {7},
    ),
    "smolvlm whole": Case(
        "SmolVLMImageProcessorPil",
        SMOL | {"do_image_splitting": False},
        ask_first,
        lambda settings, _: smolvlm.plan_image(settings, 32, None),
    ),
    "idefics3": Case(
        "Idefics3ImageProcessorPil",
        SMOL,
        ask_thumbnail_last,
        lambda settings, _: smolvlm.plan_image(settings, 32, (2, 3)),
        draw_alike,
        {7},
    ),
    "idefics3 whole": Case(
        "Idefics3ImageProcessorPil",
        SMOL | {"do_image_splitting": False},
        ask_first,
        lambda settings, _: smolvlm.plan_image(settings, 32, None),
    ),
    "qwen2_vl": Case(  # Qwen2.5-VL and Qwen3-VL have the same class
        "Qwen2VLImageProcessorPil",
        {"patch_size": PATCH, "size": {"shortest_edge": PIXELS, "longest_edge": PIXELS}},
        ask_qwen,
        _stretched,
        draw_alike,
    ),
    "lfm2_vl": Case(  # its own class needs torchvision; the export takes SigLIP 2's in its place
        "Siglip2ImageProcessorPil",
        {"patch_size": 8, "max_num_patches": 24},
        ask_naflex,
        _stretched,
        draw_alike,
    ),
    "dpt": Case("DPTImageProcessorPil", {"size": {"height": 48, "width": 64}}),
    "dpt in proportion": Case(
        "DPTImageProcessorPil",
        {"size": dict(zip(("height", "width"), SIZE_PX, strict=True)), "keep_aspect_ratio": True},
        draw=draw_alike,
    ),
    "eomt": Case("EomtImageProcessorPil", SQUARE | {"do_split_image": False, "do_pad": False}),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_pixels_are_those_of_the_class(name: str) -> None:
    case = FAMILIES[name]
    processor = getattr(transformers, case.kind)(**VALUES | case.settings)
    settings, parts = processor.to_dict(), set()
    for picture in case.draw():
        want = case.ask(processor, picture)
        got = preprocess(picture, case.plan(settings, picture))
        assert got.shape == want.shape, picture.size
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
        parts.add(len(got))
    assert parts == case.parts


def test_pixels_of_perception_lm() -> None:
    """Its class needs torchvision, which rounds resized pixels otherwise: it gets them resized."""
    pytest.importorskip("torchvision")
    processor = transformers.PerceptionLMImageProcessor(
        **VALUES, tile_size=32, vision_input_type="vanilla"
    )
    plan = plan_stretched(processor.to_dict(), (32, 32))
    for picture in draw_free():
        stretched = picture.resize((32, 32), Image.Resampling(processor.resample))
        want = ask_first(processor, stretched)
        np.testing.assert_allclose(preprocess(picture, plan), want, rtol=0, atol=1e-6)
