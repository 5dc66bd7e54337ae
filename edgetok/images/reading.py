"""From an image file, its bytes, a Pillow image or an array to an upright RGB picture.

Limits are checked on the header, before anything is decoded. Transparent pixels become white,
as in transformers' `convert_to_rgb`, and what EXIF says is turned upright, as in its `load_image`.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from edgetok import limits
from edgetok.errors import InputError

ImageInput = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]

_DEEP_MODES = ("I", "F")  # I;16 and its kin, I, and F
# Everything that Pillow's decoders raise on damaged files.
_DECODE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error)


def open_image(image: ImageInput) -> Image.Image:
    """Read an image of any accepted kind as upright RGB.

    Raises:
        InputError: if the image cannot be read, is damaged or exceeds a limit.
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


def read_file(path: Path) -> tuple[bytes, Image.Image]:
    """The bytes of an image file, and the upright RGB picture in them.

    Raises:
        InputError: as `open_image`.
    """
    with _open_file(path) as file:
        _require_file_size(os.fstat(file.fileno()).st_size, str(path))
        data = file.read()
    return data, _decode(_open_header(io.BytesIO(data), str(path)), str(path))


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
