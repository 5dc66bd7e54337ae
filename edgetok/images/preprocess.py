"""From a picture to the pixels that the tower reads, as Hugging Face computes them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgetok.bundle.processor import ImagePlan, Tiles
from edgetok.images.reading import ImageInput, open_image, require_size

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


def preprocess(image: ImageInput, plan: ImagePlan) -> NDArray[np.float32]:
    """Pixels [P, 3, h, w], ready for the tower: one image, or a thumbnail and its tiles.

    Args:
        image: a path, the bytes of a file, a Pillow image or an array uint8 [H, W, 3].

    Raises:
        InputError: if the image cannot be read, is damaged or exceeds a limit.
    """
    picture = open_image(image)
    if plan.square_rgb is not None:
        side = max(picture.size)
        require_size(side, side, "the image, made square,")
        picture = _pad(picture, (side, side), plan.square_rgb)
    if plan.resize_longest_px is not None:
        picture = _resize(picture, longest_size(picture, plan.resize_longest_px), plan)
    if plan.tiles is not None:
        return np.concatenate([normalise(part, plan) for part in _cut(picture, plan, plan.tiles)])
    picture = _resize(picture, resized_size(picture.height, picture.width, plan), plan)
    cropped = center_crop(np.asarray(picture), plan.crop_px)
    return normalise(cropped, plan)


def resized_size(height: int, width: int, plan: ImagePlan) -> tuple[int, int]:
    """Height and width after the plan's resize; truncated as Hugging Face does."""
    if plan.resize_px is not None:
        return plan.resize_px[0], plan.resize_px[1]
    if plan.resize_shortest_px is None:
        return height, width
    short = plan.resize_shortest_px
    long = int(short * max(height, width) / min(height, width))
    resized = (long, short) if width <= height else (short, long)
    require_size(*resized, "the resized image")
    return resized


def longest_size(picture: Image.Image, longest_px: int) -> tuple[int, int]:
    """Height and width with the longer side of `longest_px`, the other truncated and made even."""
    height, width = picture.height, picture.width
    wide = width >= height
    short = int(longest_px / (width / height) if wide else longest_px * (width / height))
    short = max(short + short % 2, 1)
    resized = (short, longest_px) if wide else (longest_px, short)
    require_size(*resized, "the resized image")
    return resized


def padded_size(picture: Image.Image, canvas: tuple[int, int]) -> tuple[int, int]:
    """The largest height and width of the image's aspect ratio in a canvas; rounded up."""
    (height, width), (down, across) = (picture.height, picture.width), canvas
    if across / width < down / height:
        return min(math.ceil(height * (across / width)), down), across
    return down, min(math.ceil(width * (down / height)), across)


def _resize(picture: Image.Image, size: tuple[int, int], plan: ImagePlan) -> Image.Image:
    if size == (picture.height, picture.width):
        return picture
    return picture.resize(size[::-1], _RESAMPLING[plan.resample])


def _cut(picture: Image.Image, plan: ImagePlan, tiles: Tiles) -> Iterator[NDArray[np.uint8]]:
    """The thumbnail, then the tiles row by row, each uint8 [h, w, 3]."""
    assert plan.resize_px is not None  # noqa: S101  # the plan was checked when it was read
    (rows, columns), (height, width) = tiles.grid, plan.resize_px
    canvas = (rows * height, columns * width)
    if tiles.fit == "pad":
        thumbnail = _resize(picture, (height, width), plan)
        picture = _pad(_resize(picture, padded_size(picture, canvas), plan), canvas)
    else:
        picture = _resize(picture, canvas, plan)
        thumbnail = _resize(picture, (height, width), plan)
    yield np.asarray(thumbnail)
    whole = np.asarray(picture).reshape(rows, height, columns, width, 3)
    yield from whole.transpose(0, 2, 1, 3, 4).reshape(-1, height, width, 3)


def _pad(
    picture: Image.Image, canvas: tuple[int, int], fill: Sequence[int] = (0, 0, 0)
) -> Image.Image:
    """The image in the middle of a canvas, rounded towards the upper left."""
    whole = Image.new("RGB", canvas[::-1], tuple(fill))
    whole.paste(picture, ((canvas[1] - picture.width) // 2, (canvas[0] - picture.height) // 2))
    return whole


def center_crop(pixels: NDArray[np.uint8], crop_px: list[int] | None) -> NDArray[np.uint8]:
    """Cut [h, w, 3] out of the middle of [H, W, 3]; what lies outside the image is black."""
    if crop_px is None:
        return pixels
    for axis, wanted in enumerate(crop_px):
        pixels = _crop_axis(pixels, axis, wanted)
    return pixels


def normalise(pixels: NDArray[np.uint8], plan: ImagePlan) -> NDArray[np.float32]:
    """uint8 [h, w, 3] to float32 [1, 3, h, w].

    A pixel has 256 values, so each channel is a table of 256 entries; computed in the order and
    precision of Hugging Face, the result is bit-identical.
    """
    values = (np.arange(256, dtype=np.float64) * plan.rescale).astype(np.float32)
    output = np.empty((1, 3, *pixels.shape[:2]), np.float32)
    for channel in range(3):
        table = (values - np.float32(plan.mean[channel])) / np.float32(plan.std[channel])
        np.take(table, pixels[..., channel], out=output[0, channel])
    return output


def normalise_parts(levels: NDArray[np.uint8], plan: ImagePlan) -> NDArray[np.float32]:
    """uint8 [P, h, w, 3] to float32 [P, 3, h, w]."""
    return np.concatenate([normalise(part, plan) for part in levels])


def _crop_axis(pixels: NDArray[np.uint8], axis: int, wanted: int) -> NDArray[np.uint8]:
    have = pixels.shape[axis]
    if have >= wanted:
        start = (have - wanted) // 2
        return pixels.take(range(start, start + wanted), axis=axis)
    before = math.ceil((wanted - have) / 2)
    padding = [(0, 0)] * pixels.ndim
    padding[axis] = (before, wanted - have - before)
    return np.pad(pixels, padding)
