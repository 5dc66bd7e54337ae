"""The manifest of a bundle without a language model: an encoder that classifies, embeds or draws.

It has a `task`, which manifests of bundles that answer do not have. `encoder_parse` is the only way
in. docs/bundle-format.md describes the format for other readers.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from edgetok.bundle.manifest import File, Name, Path, Stage, Tensor, Vision, Weights
from edgetok.bundle.strict import Positive, Struct

Task = Literal["classify", "embed", "similarity", "depth", "segment"]
LABELLED = ("classify", "segment")  # tasks whose outputs have a channel per class

Scores = Literal["softmax", "sigmoid", "none"]  # of logits, as Hugging Face's pipeline has them

Label = Annotated[str, msgspec.Meta(max_length=1024)]


class EncoderRung(Struct, frozen=True):
    """`budget` patches, or what stands for them, leave the tower."""

    budget: Positive


class Similarity(Struct, frozen=True):
    """scale * cosine + bias, then `softmax` over the texts or a `sigmoid` of each."""

    scale: float
    bias: float
    kind: Literal["softmax", "sigmoid"]


class TextSide(Struct, frozen=True):
    """Every text is padded to `tokens`, its control tokens among them, as the tokenizer says."""

    tokens: Positive
    similarity: Similarity


class EncoderManifest(Struct, frozen=True):
    """Everything a runtime needs to open the bundle; see docs/bundle-format.md.

    `output` is what every `encode` graph gives beside `kept` and `sizes`. `labels` name the
    channels of its second dimension where the task has classes, and are empty elsewhere. `scores`
    is what becomes of a classifier's logits; `none` is of regression.
    """

    format_version: Literal[1]
    task: Task
    producer: Annotated[str, msgspec.Meta(max_length=120)]
    family: Name
    method: Name
    ladder: Annotated[list[EncoderRung], msgspec.Meta(min_length=1, max_length=64)]
    weights: Weights
    vision: Vision
    output: Tensor
    labels: Annotated[list[Label], msgspec.Meta(max_length=100_000)]
    text: TextSide | None
    stages: Annotated[list[Stage], msgspec.Meta(min_length=1, max_length=512)]
    files: dict[Path, File]
    scores: Scores = "softmax"
