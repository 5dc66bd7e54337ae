"""Several images in one prompt: how many there must be, and what the tower leaves of them all."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import cast

import numpy as np
from PIL import Image

from edgetok import names
from edgetok.bundle.manifest import Manifest
from edgetok.errors import InputError, UsageError
from edgetok.images.reading import ImageInput
from edgetok.runtimes.runtime.protocol import FloatArray, TowerOutput

Pictures = ImageInput | Collection[ImageInput]


def list_pictures(image: Pictures, wanted: int) -> Iterator[ImageInput]:
    """The images of a prompt one by one, as many as the bundle was exported for.

    Raises:
        UsageError: for another number of them.
        InputError: if there turn out to be fewer than was said.
    """
    # What is neither an image nor a list of them is refused when it is read; a tensor has a shape.
    one = (str, bytes, bytearray, memoryview, os.PathLike, np.ndarray, Image.Image, Mapping)
    is_list = isinstance(image, Collection) and not isinstance(image, one)
    listed = is_list and not hasattr(image, "shape")
    shown = cast("Collection[ImageInput]", image if listed else [image])
    count = len(shown)
    if count != wanted:
        given = f"{count} picture{'s were' if count != 1 else ' was'} given"
        raise UsageError(
            f"{given} and prompts of this bundle have {wanted}; give {wanted}, or export with "
            f"--images {max(count, 1)}"
        )
    read = 0
    for picture in shown:
        read += 1
        yield picture
    if read != wanted:
        raise InputError(f"{read} of {wanted} pictures could be read; give a longer video")


def join_outputs(outputs: Sequence[TowerOutput]) -> TowerOutput:
    """What the tower made of each image as if it were one: rows one after another.

    Signals that count tokens add up; edges are a mean.
    """
    first = outputs[0]
    if len(outputs) == 1:
        return first
    tensors = {name: np.concatenate([o.tensors[name] for o in outputs]) for name in first.tensors}
    signals = {name: sum(o.signals[name] for o in outputs) for name in first.signals}
    if names.SIGNAL_EDGES in signals:
        signals[names.SIGNAL_EDGES] /= len(outputs)
    pixels = None if first.pixels is None else np.concatenate([o.pixels for o in outputs])
    return TowerOutput(tensors, signals, first.budget, pixels)


def require_weights(manifest: Manifest, weights: Sequence[float] | None) -> FloatArray | None:
    """Weights [images] of the images of a prompt, as the method reads them; None for none.

    Raises:
        UsageError: if the bundle's method reads none, or there are too few, too many or odd ones.
    """
    if weights is None:
        return None
    if not reads_weights(manifest):
        raise UsageError(
            f"the method {manifest.method} of this bundle reads no weights of pictures; "
            "export with --method quota"
        )
    wanted, values = manifest.vision.pictures, [float(value) for value in weights]
    if len(values) != wanted:
        raise UsageError(f"{len(values)} weights were given for {wanted} pictures; give {wanted}")
    if not all(math.isfinite(v) and 0 <= v <= _LARGEST_WEIGHT for v in values) or not any(values):
        raise UsageError(
            f"weights {values} of pictures; each must be 0 to {_LARGEST_WEIGHT:g}, and one above 0"
        )
    return np.array(values, np.float32)


_LARGEST_WEIGHT = 1e6  # float32 counts shares of it exactly enough


def reads_weights(manifest: Manifest) -> bool:
    """Whether the method divides the budget by weights that the user may give."""
    compress = (stage for stage in manifest.stages if stage.stage == "compress")
    return any(t.name == names.PICTURE_WEIGHTS for stage in compress for t in stage.inputs)
