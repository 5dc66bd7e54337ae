"""Plans of image processors: pixels are those of the Hugging Face class, or it is refused.

Classes are made by transformers itself, without files; pictures are of all proportions and modes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image

from edgetok.errors import InputError
from edgetok.families.image_plan import plan_of
from edgetok.images.preprocess import preprocess

PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViTImageProcessorPil", {"size": {"height": 32, "width": 24}}),
    "vit by defaults": ("ViTImageProcessorPil", {}),
    "clip": (
        "CLIPImageProcessorPil",
        {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}},
    ),
    "clip by defaults": ("CLIPImageProcessorPil", {}),
    "crop larger than the image": (
        "CLIPImageProcessorPil",
        {"size": {"shortest_edge": 24}, "crop_size": {"height": 41, "width": 32}},
    ),
    "no resize": (
        "CLIPImageProcessorPil",
        {"do_resize": False, "crop_size": {"height": 31, "width": 32}},
    ),
    "siglip": ("SiglipImageProcessorPil", {"size": {"height": 32, "width": 32}}),
    "bit": ("BitImageProcessorPil", {"size": {"shortest_edge": 40}, "crop_size": 32}),
    "deit": ("DeiTImageProcessorPil", {"size": {"height": 40, "width": 40}, "crop_size": 32}),
    "convnext cropped": ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 32}}),
    "convnext cropped less": (
        "ConvNextImageProcessorPil",
        {"size": {"shortest_edge": 32}, "crop_pct": 0.95},
    ),
    "convnext whole": ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 384}}),
    "llava": ("LlavaImageProcessorPil", {"size": {"shortest_edge": 32}, "crop_size": 32}),
    "llava padded": (
        "LlavaImageProcessorPil",
        {"size": {"shortest_edge": 32}, "crop_size": 32, "do_pad": True},
    ),
    "clip padded": (
        "CLIPImageProcessorPil",
        {"size": {"shortest_edge": 32}, "crop_size": 32, "do_pad": True},
    ),
    "one mean for all": ("ViTImageProcessorPil", {"image_mean": 0.3, "image_std": 0.2}),
    "not rescaled": ("ViTImageProcessorPil", {"do_rescale": False}),
    "not normalized": ("ViTImageProcessorPil", {"do_normalize": False}),
    "rescaled otherwise": ("ViTImageProcessorPil", {"rescale_factor": 1 / 127.5}),
} | {
    f"resample {number}": (
        "CLIPImageProcessorPil",
        {"size": {"shortest_edge": 32}, "crop_size": 32, "resample": number},
    )
    for number in range(6)
}


def make_pictures(count: int) -> list[Image.Image]:
    """RGB pictures of all proportions from a fixed seed."""
    rng = np.random.default_rng(5)
    sides = [(32, 32), (90, 40), (40, 90), (1, 60), (60, 1), (7, 5), (1, 1), (200, 33)]
    sides += [tuple(rng.integers(1, 160, 2)) for _ in range(count)]  # type: ignore[misc]
    made = [rng.integers(0, 256, (h, w, 3), np.uint8) for w, h in sides[:count]]
    return [Image.fromarray(pixels) for pixels in made]


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_those_of_the_class(name: str) -> None:
    kind, settings = PROCESSORS[name]
    processor = getattr(transformers, kind)(**settings)
    plan = plan_of(processor.to_dict())
    for picture in make_pictures(50):
        want = processor(images=picture, return_tensors="np")["pixel_values"]
        np.testing.assert_allclose(preprocess(picture, plan), want, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resample": 6}, r"resample is 6; Pillow has the filters 0 \(nearest\), .*5 \(hamming\)"),
        ({"image_mean": [0.5]}, r"image_mean is \[0.5\]; it must be a number, or three"),
        ({"image_mean": [0.5] * 4}, "image_mean is"),
        ({"image_std": [0.5, 0.5, 0]}, "none of them 0"),
        ({"size": {"shortest_edge": 32, "longest_edge": 64}}, "bounds both sides"),
        ({"do_pad": True, "pad_size": {"height": 64, "width": 64}}, "pad_size is not supported"),
    ],
)
def test_values_that_no_plan_has_are_refused(settings: dict[str, Any], message: str) -> None:
    processor = transformers.ViTImageProcessorPil()
    with pytest.raises(InputError, match=message):
        plan_of(processor.to_dict() | settings)
