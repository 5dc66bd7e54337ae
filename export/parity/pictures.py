"""The picture code of a bundle against Hugging Face's processor, on pictures of odd kinds.

What a device will do (`edgetok.images`) is done here with the plan that the bundle holds. A
processor is given what `load_image` of transformers makes of a file: upright RGB. That drops alpha,
so transparent pictures go to it as they are, upright; many processors refuse those.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from edgetok.bundle.processor import ImagePlan, parse_image_plan
from edgetok.bundle.strict import encode_strict
from edgetok.errors import InputError, VerificationError
from edgetok.export.parity.odd_pictures import OddPicture, make_odd_pictures
from edgetok.images.preprocess import preprocess

LIMIT = 1e-6  # of normalised pixels; one of 256 levels is 0.008 or more
Float32 = npt.NDArray[np.float32]


class PictureReport(msgspec.Struct, frozen=True):
    """How many pictures were compared with which class, and the largest difference of a pixel.

    `fixed`: settings of the processor that the export chooses. `not_compared`: kinds that the
    class refuses, or edgetok with a sentence.
    """

    processor: str
    fixed: dict[str, Any]
    compared: int
    max_abs: float
    limit: float
    not_compared: list[str]


@dataclass(frozen=True, eq=False)
class Compared:
    """A picture, and the pixels [P, 3, h, w] that Hugging Face's processor makes of it."""

    picture: OddPicture
    pixels: Float32


@dataclass(frozen=True)
class Difference:
    """The largest difference of a pixel of a picture; infinite for other shapes and for NaN."""

    kind: str
    value: float
    words: str

    @classmethod
    def between(cls, kind: str, got: Float32, wanted: Float32) -> Difference:
        if got.shape != wanted.shape:
            words = f"pixels of shape {list(got.shape)}, not of {list(wanted.shape)}, the shape of"
            return cls(kind, float("inf"), words)
        off = float(np.abs(got.astype(np.float64) - wanted).max(initial=0))
        words = f"pixels up to {off:.3g}, and so more than {LIMIT:g}, away from"
        return cls(kind, off if np.isfinite(off) else float("inf"), words)


def compare_pictures(
    plan: ImagePlan,
    process: Callable[[Any], Any],
    processor: str,
    fixed: Mapping[str, Any] | None = None,
) -> tuple[PictureReport, list[Compared]]:
    """Make pixels of every odd picture in both ways.

    Args:
        process: Hugging Face's processor: a Pillow image -> pixels [P, 3, h, w].
        processor: the name of its class.
        fixed: its settings that `process` gives it.

    Raises:
        VerificationError: naming the picture that differs most.
    """
    stored = parse_image_plan(encode_strict(plan))
    found: list[Compared] = []
    left_out: list[str] = []
    worst = Difference("", 0.0, "")
    for picture in make_odd_pictures():
        wanted, got = _process(process, picture.data), _preprocess(picture.data, stored)
        if wanted is None or got is None:
            left_out.append(picture.kind)
            continue
        found.append(Compared(picture, wanted))
        worst = max(worst, Difference.between(picture.kind, got, wanted), key=lambda d: d.value)
    _require_equal(processor, worst, found)
    report = PictureReport(processor, dict(fixed or {}), len(found), worst.value, LIMIT, left_out)
    return report, found


def _process(process: Callable[[Any], Any], data: bytes) -> Float32 | None:
    """Hugging Face's pixels; None if it makes none, or none of three channels."""
    try:
        pixels: Float32 = np.asarray(process(_load(data)), np.float32)
    except Exception:  # a processor raises whatever its libraries do
        return None
    return pixels if pixels.ndim == 4 and pixels.shape[1] == 3 else None


def _load(data: bytes) -> Image.Image:
    from transformers.image_utils import load_image

    opened = Image.open(io.BytesIO(data))
    if opened.has_transparency_data:
        return ImageOps.exif_transpose(opened)
    shown: Image.Image = load_image(opened)
    return shown


def _preprocess(data: bytes, plan: ImagePlan) -> Float32 | None:
    try:
        return preprocess(data, plan)
    except InputError:  # with a sentence, as it would on the device
        return None


def _require_equal(processor: str, worst: Difference, found: Sequence[Compared]) -> None:
    if worst.value <= LIMIT and found:
        return
    what = (
        f"the picture {worst.kind!r} has {worst.words} those of {processor}"
        if found
        else f"{processor} or edgetok refuses every picture that was tried"
    )
    raise VerificationError(
        f"{what}. Nothing was published: the image plan of the bundle does not say what this "
        "processor does. Install a transformers and a Pillow that edgetok was tried with "
        "(docs/platform.md), or give the checkpoint an image processor that docs/images.md names"
    )
