"""Making ids and pixels of a bundle's golden inputs again, as transformers made them at export."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from edgetok.bundle.golden_inputs import GoldenPrompt, decode_levels, load_inputs
from edgetok.bundle.processor import IMAGE_FILE, parse_image_plan
from edgetok.bundle.reader import Bundle, EncoderBundle
from edgetok.errors import InputError, UsageError
from edgetok.images.preprocess import normalise_parts
from edgetok.runtimes.checks import Check, largest_difference, mismatches
from edgetok.runtimes.runtime.protocol import FloatArray

Given = TypeVar("Given")
Made = TypeVar("Made")
Wanted = TypeVar("Wanted")


def input_checks(
    bundle: Bundle | EncoderBundle,
    encode: Callable[[GoldenPrompt], Sequence[int]],
    encode_turn: Callable[[str], Sequence[int]],
    make_pixels: Callable[[bytes], FloatArray],
    pixels_limit: float,
) -> Iterator[Check]:
    """Compare ids of texts and later turns, and pixels of pictures.

    Args:
        encode: a first question -> its ids.
        encode_turn: a text -> the ids of a later turn.
        make_pixels: an image file -> pixels [P, 3, h, w].
        pixels_limit: by which a pixel may differ.

    Raises:
        BundleError: if what the bundle stores of them is malformed.
    """
    inputs, vision = load_inputs(bundle), bundle.manifest.vision
    for number, asked in enumerate(inputs.prompts):
        off = _measure(encode, asked, mismatches, asked.ids)
        yield Check(f"text {number}", None, "ids of texts", off, 0)
    for number, turn in enumerate(inputs.turns):
        off = _measure(encode_turn, turn.text, mismatches, turn.ids)
        yield Check(f"text {number}", None, "ids of later turns", off, 0)
    plan = parse_image_plan(bundle.read(IMAGE_FILE))
    shape = (vision.parts, vision.height_px, vision.width_px, 3)
    for picture in inputs.pictures:
        levels = decode_levels(bundle.read(picture.levels), shape, picture.levels)
        image, wanted = bundle.read(picture.image), normalise_parts(levels, plan)
        off = _measure(make_pixels, image, largest_difference, wanted)
        yield Check(f"picture {picture.kind}", None, "pixels of odd pictures", off, pixels_limit)


def _measure(
    make: Callable[[Given], Made],
    given: Given,
    compare: Callable[[Made, Wanted], float],
    wanted: Wanted,
) -> float:
    """How far what is made is from what is wanted; infinite for what this device refuses."""
    try:
        return compare(make(given), wanted)
    except (InputError, UsageError):
        return float("inf")
