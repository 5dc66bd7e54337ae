"""The processor files: how an image and a prompt become tensors without transformers."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec

from edgetok import limits
from edgetok.bundle.strict import Count, Positive, Struct, decode_strict
from edgetok.errors import BundleError

IMAGE_FILE = "processor/image.json"
PROMPT_FILE = "processor/prompt.json"
TOKENIZER_FILE = "processor/tokenizer.json"


Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]


class Tiles(Struct, frozen=True):
    """A canvas of `grid` [rows, columns] tiles, each of `resize_px`, and a thumbnail before them.

    `pad`: the image keeps its aspect ratio and is centred on black, and the thumbnail is made of
    the image; `stretch`: the image fills the canvas, of which the thumbnail is made.
    """

    grid: Annotated[list[Positive], msgspec.Meta(min_length=2, max_length=2)]
    fit: Literal["pad", "stretch"]


class ImagePlan(Struct, frozen=True):
    """Resize, crop, rescale and normalise, in this order; sizes are [height, width] in pixels.

    `resize_shortest_px` keeps the aspect ratio; `resize_px` does not; at most one is set.
    `resize_longest_px` comes before them: it keeps the aspect ratio, with the shorter side made
    even. Of `tiles`, each is rescaled and normalised for itself. `square_rgb` fills what is missing
    of a square, before anything else.
    """

    resize_shortest_px: Positive | None
    resize_px: Annotated[list[Positive], msgspec.Meta(min_length=2, max_length=2)] | None
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
    crop_px: Annotated[list[Positive], msgspec.Meta(min_length=2, max_length=2)] | None
    rescale: float
    mean: Annotated[list[float], msgspec.Meta(min_length=3, max_length=3)]
    std: Annotated[list[float], msgspec.Meta(min_length=3, max_length=3)]
    resize_longest_px: Positive | None = None
    tiles: Tiles | None = None
    square_rgb: Annotated[list[Byte], msgspec.Meta(min_length=3, max_length=3)] | None = None


class Segment(Struct, frozen=True):
    """A piece of the rendered prompt; exactly one of `ids`, `text` and `slot` is set.

    `ids`: control tokens of the template; `text`: literal text of the template, tokenized together
    with its neighbours; `slot`: "image" (visual tokens), or "user" or "system" (a text that is
    given with the question). `strip`: the sides at which a given text loses its white space, or
    at which a control token takes the white space of the text beside it.
    """

    ids: list[Count] | None = None
    text: str | None = None
    slot: Literal["image", "user", "system"] | None = None
    strip: Literal["left", "right", "both"] | None = None


class PromptPlan(Struct, frozen=True):
    """The chat template, rendered once at export with one image and one user turn.

    `turn` is what follows an answer (of which the stop token is no part) up to the next one: the
    end of the answer, and a turn of the user. None where the template writes earlier turns anew
    when later ones come, so that nothing can simply be put after them. `system` stands in place of
    `segments` where a system message is given; None where the template takes none.
    `starts_with_text`: whether the first literal text begins the prompt, as tokenizers that put a
    space before the first word want to know; control tokens may be put before it all the same.
    """

    segments: list[Segment]
    forbidden_ids: list[Count]  # control tokens that user text must never produce
    turn: list[Segment] | None = None
    system: list[Segment] | None = None
    starts_with_text: bool = True


def parse_image_plan(data: bytes) -> ImagePlan:
    """Decode `processor/image.json`.

    Raises:
        BundleError: if it is malformed or asks for what no image can be put through.
    """
    plan = decode_strict(data, ImagePlan, IMAGE_FILE, limits.PROCESSOR_BYTES)
    if plan.resize_shortest_px is not None and plan.resize_px is not None:
        raise BundleError(f"{IMAGE_FILE}: resize_shortest_px and resize_px are both set; keep one")
    if not all(math.isfinite(v) and v != 0 for v in (plan.rescale, *plan.std)):
        raise BundleError(f"{IMAGE_FILE}: rescale and every std must be numbers other than 0")
    for name in ("resize_shortest_px", "resize_px", "resize_longest_px", "crop_px"):
        _require_sides(name, getattr(plan, name))
    if plan.tiles is not None:
        if plan.resize_px is None:
            raise BundleError(f"{IMAGE_FILE}: tiles without resize_px have no size")
        sides = [n * px for n, px in zip(plan.tiles.grid, plan.resize_px, strict=True)]
        _require_sides("the canvas of tiles", sides)
        if math.prod(sides) > limits.IMAGE_PIXELS:
            raise BundleError(
                f"{IMAGE_FILE}: a canvas of {sides} has more than {limits.IMAGE_PIXELS} pixels"
            )
    return plan


def parse_prompt_plan(data: bytes) -> PromptPlan:
    """Decode `processor/prompt.json`.

    Raises:
        BundleError: if it is malformed, a segment does not set exactly one field, or there is not
            exactly one place for the image and one for the user's text, or in `turn` just the
            latter.
    """
    plan = decode_strict(data, PromptPlan, PROMPT_FILE, limits.PROCESSOR_BYTES)
    _require_segments("segments", plan.segments, {"image": 1, "user": 1, "system": 0})
    if plan.turn is not None:
        _require_segments("turn", plan.turn, {"image": 0, "user": 1, "system": 0})
    if plan.system is not None:
        _require_segments("system", plan.system, {"image": 1, "user": 1, "system": 1})
    return plan


def _require_segments(field: str, segments: list[Segment], slots: dict[str, int]) -> None:
    for index, segment in enumerate(segments):
        fields = (segment.ids, segment.text, segment.slot)
        if sum(each is not None for each in fields) != 1:
            raise BundleError(
                f"{PROMPT_FILE}: $.{field}[{index}] must set exactly one of ids, text and slot"
            )
    for slot, allowed in slots.items():
        places = sum(segment.slot == slot for segment in segments)
        if places != allowed:
            raise BundleError(
                f"{PROMPT_FILE}: {places} of $.{field} have slot {slot!r}; exactly {allowed} may"
            )


def _require_sides(name: str, value: int | list[int] | None) -> None:
    sides = [] if value is None else [value] if isinstance(value, int) else value
    if any(side > limits.IMAGE_SIDE_PIXELS for side in sides):
        raise BundleError(
            f"{IMAGE_FILE}: {name} {value} exceeds {limits.IMAGE_SIDE_PIXELS} pixels a side"
        )
