"""Golden inputs: texts with the ids, and pictures with the pixels, that transformers makes of them.

`golden/inputs.json` lists them; bundles of older exports have none. Pixels are stored before they
are normalised, as a lossless PNG of 256 levels: the parts of an image stand below each other.
"""

from __future__ import annotations

import io
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image

from edgetok import limits
from edgetok.bundle.manifest import Name, Path
from edgetok.bundle.reader import Bundle, EncoderBundle
from edgetok.bundle.strict import Struct, decode_strict, encode_strict, shorten
from edgetok.errors import BundleError

INPUTS_FILE = "golden/inputs.json"

Text = Annotated[str, msgspec.Meta(max_length=8192)]
Ids = Annotated[list[int], msgspec.Meta(max_length=65536)]


class GoldenPrompt(Struct, frozen=True):
    """The ids of a first question, with `golden.IMAGE_PLACEHOLDER`; of an encoder, of a text."""

    text: Text
    system: Text | None
    ids: Ids


class GoldenTurn(Struct, frozen=True):
    """The ids between an answer and the next one."""

    text: Text
    ids: Ids


class GoldenPicture(Struct, frozen=True):
    """Paths of a file of this kind, and of the levels that it becomes."""

    kind: Name
    image: Path
    levels: Path


class GoldenInputs(Struct, frozen=True):
    """`golden/inputs.json`."""

    prompts: Annotated[list[GoldenPrompt], msgspec.Meta(max_length=limits.GOLDEN_INPUTS)]
    turns: Annotated[list[GoldenTurn], msgspec.Meta(max_length=limits.GOLDEN_INPUTS)]
    pictures: Annotated[list[GoldenPicture], msgspec.Meta(max_length=limits.GOLDEN_INPUTS)]


def encode_inputs(inputs: GoldenInputs) -> bytes:
    """The bytes of `golden/inputs.json`."""
    return encode_strict(inputs)


def load_inputs(bundle: Bundle | EncoderBundle) -> GoldenInputs:
    """The golden inputs of a bundle; none where its export stored none.

    Raises:
        BundleError: if the list is malformed, or names files that are not in the bundle.
    """
    if INPUTS_FILE not in bundle.manifest.files:
        return GoldenInputs(prompts=[], turns=[], pictures=[])
    data = bundle.read(INPUTS_FILE)
    inputs = decode_strict(data, GoldenInputs, INPUTS_FILE, limits.GOLDEN_INPUT_BYTES)
    for picture in inputs.pictures:
        for path in (picture.image, picture.levels):
            if path not in bundle.manifest.files:
                raise BundleError(f"{INPUTS_FILE}: `{shorten(path)}` is not in the bundle")
    return inputs


def encode_levels(levels: npt.NDArray[np.uint8]) -> bytes:
    """Levels uint8 [P, h, w, 3] as a PNG."""
    parts, height, width, _ = levels.shape
    packed = io.BytesIO()
    Image.fromarray(levels.reshape(parts * height, width, 3)).save(packed, "PNG", compress_level=3)
    return packed.getvalue()


def decode_levels(data: bytes, shape: tuple[int, ...], path: str) -> npt.NDArray[np.uint8]:
    """Levels uint8 [P, h, w, 3] of this shape.

    Raises:
        BundleError: if the file holds anything else.
    """
    parts, height, width, _ = shape
    try:
        picture = Image.open(io.BytesIO(data), formats=("PNG",))
        if (picture.mode, picture.size) != ("RGB", (width, parts * height)):
            raise BundleError(
                f"{path}: {picture.mode} of {picture.size} is not RGB of {(width, parts * height)}"
            )
        levels: npt.NDArray[Any] = np.asarray(picture)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise BundleError(f"{path}: {shorten(str(error), 200)}") from error
    return levels.reshape(shape)
