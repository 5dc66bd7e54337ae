"""From an image file or array to the pixels that the tower reads, as Hugging Face computes them.

Limits are checked on the header, before anything is decoded. Transparent pixels become white,
as in transformers' `convert_to_rgb`, and what EXIF says is turned upright, as in its `load_image`.
"""

from __future__ import annotations

import io
import math
import os
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from edgetok import limits
from edgetok.bundle.processor import ImagePlan, Tiles
from edgetok.errors import InputError

ImageInput = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
_DEEP_MODES = ("I", "F")  # I;16 and its kin, I, and F
# Everything that Pillow's decoders raise on damaged files.
_DECODE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error)


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


def open_image(image: ImageInput) -> Image.Image:
    """Read an image of any accepted kind as upright RGB.

    Raises:
        InputError: as in `preprocess`.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, Image.Image):
        return _decode(image, "the image")
    if isinstance(image, bytes):
        _require_file_size(len(image), "the image")
        return _decode(_open_header(io.BytesIO(image), "the image"), "the image")
    if isinstance(image, str | os.PathLike):
        return _read_file(Path(image))
    raise InputError(
        f"an image of type {type(image).__name__} cannot be read; give a path, the bytes of a "
        f"file, a PIL.Image or an array uint8 [height, width, 3]"
    )


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


def _crop_axis(pixels: NDArray[np.uint8], axis: int, wanted: int) -> NDArray[np.uint8]:
    have = pixels.shape[axis]
    if have >= wanted:
        start = (have - wanted) // 2
        return pixels.take(range(start, start + wanted), axis=axis)
    before = math.ceil((wanted - have) / 2)
    padding = [(0, 0)] * pixels.ndim
    padding[axis] = (before, wanted - have - before)
    return np.pad(pixels, padding)


def _read_file(path: Path) -> Image.Image:
    with _open_file(path) as file:
        _require_file_size(os.fstat(file.fileno()).st_size, str(path))
        return _decode(_open_header(file, str(path)), str(path))


def _open_file(path: Path) -> io.BufferedReader:
    # Non-blocking, so that a FIFO in place of a file does not hang.
    flags = getattr(os, "O_NONBLOCK", 0)
    try:
        raw = io.FileIO(path, "rb", opener=lambda name, mode: os.open(name, mode | flags))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read: {reason}; name a readable image file") from error
    return io.BufferedReader(raw)


def _open_header(file: IO[bytes], name: str) -> Image.Image:
    try:
        with _without_warnings():
            return Image.open(file, formats=limits.IMAGE_FORMATS)
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{name} is too large: {error}; at most {limits.IMAGE_PIXELS} pixels are decoded, "
            f"so scale it down first"
        ) from error
    except _DECODE_ERRORS as error:
        raise InputError(
            f"{name} is no image that can be read; accepted are {', '.join(limits.IMAGE_FORMATS)}"
        ) from error


@contextmanager
def _without_warnings() -> Iterator[None]:
    # Pillow warns of much that is an error here or does no harm: 89 megapixels, odd metadata.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _decode(picture: Image.Image, name: str) -> Image.Image:
    """Decode the first frame, turn it upright, make it RGB."""
    require_size(picture.height, picture.width, name)
    try:
        with _without_warnings():
            return _to_rgb(ImageOps.exif_transpose(picture), name)
    except InputError:  # is a ValueError too, and has its own sentence
        raise
    except _DECODE_ERRORS as error:
        raise InputError(
            f"{name} is damaged ({error}); its header is sound but its pixels cannot be decoded, "
            f"so copy or export it again"
        ) from error


def _to_rgb(picture: Image.Image, name: str) -> Image.Image:
    if picture.mode.startswith(_DEEP_MODES):
        raise InputError(
            f"{name} has grey levels of more than 8 bits (mode {picture.mode}), which Hugging "
            "Face's processors clip, so that nearly everything turns white; save it with 8 bits"
        )
    if "A" in picture.getbands() or picture.info.get("transparency") is not None:
        front = picture.convert("RGBA")
        white = Image.new("RGBA", front.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, front).convert("RGB")
    return picture.convert("RGB")


def _from_array(array: NDArray[np.uint8]) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise InputError(
            f"an image array is {array.dtype} {list(array.shape)}; it must be uint8 "
            f"[height, width, 3], RGB"
        )
    require_size(array.shape[0], array.shape[1], "the image")
    return Image.fromarray(np.ascontiguousarray(array))


def _require_file_size(size_bytes: int, name: str) -> None:
    if not 0 < size_bytes <= limits.IMAGE_FILE_BYTES:
        raise InputError(
            f"{name} has {size_bytes} bytes; image files of 1..{limits.IMAGE_FILE_BYTES} bytes "
            f"are read"
        )


def require_size(height: int, width: int, name: str) -> None:
    """Refuse images of no pixels or too many, before they are decoded; raises InputError."""
    if min(height, width) < 1:
        raise InputError(f"{name} is {width}x{height} pixels; it has no pixels to look at")
    if max(height, width) > limits.IMAGE_SIDE_PIXELS:
        raise InputError(
            f"{name} is {width}x{height} pixels; a side may have at most "
            f"{limits.IMAGE_SIDE_PIXELS}, so crop it first"
        )
    if height * width > limits.IMAGE_PIXELS:
        raise InputError(
            f"{name} is {width}x{height} = {height * width} pixels; at most "
            f"{limits.IMAGE_PIXELS} are decoded, so scale it down first"
        )
