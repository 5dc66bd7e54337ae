"""The processor files of a bundle: how an image and a prompt become tensors, without transformers."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from edgetok.bundle.manifest import Count, Positive, Struct

IMAGE_FILE = "processor/image.json"
PROMPT_FILE = "processor/prompt.json"
TOKENIZER_FILE = "processor/tokenizer.json"


class ImagePlan(Struct):
    """Resize, crop, rescale and normalise, in this order; sizes are [height, width] in pixels.

    `resize_shortest_px` keeps the aspect ratio; `resize_px` does not; at most one is set.
    """

    resize_shortest_px: Positive | None
    resize_px: Annotated[list[Positive], msgspec.Meta(min_length=2, max_length=2)] | None
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos"]
    crop_px: Annotated[list[Positive], msgspec.Meta(min_length=2, max_length=2)] | None
    rescale: float
    mean: Annotated[list[float], msgspec.Meta(min_length=3, max_length=3)]
    std: Annotated[list[float], msgspec.Meta(min_length=3, max_length=3)]


class Segment(Struct):
    """A piece of the rendered prompt; exactly one field is set.

    `ids`: control tokens of the template; `text`: literal text of the template, tokenized together
    with its neighbours; `slot`: "image" (visual tokens) or "user" (the user's own text).
    """

    ids: list[Count] | None = None
    text: str | None = None
    slot: Literal["image", "user"] | None = None


class PromptPlan(Struct):
    """The chat template, rendered once at export with one image and one user turn."""

    segments: list[Segment]
    forbidden_ids: list[Count]  # control tokens that user text must never produce
