"""From a checkpoint's image processor to the image plan of a bundle.

What counts are the values of the loaded Hugging Face class: a file may leave out any of them, and
classes differ in what they take then.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from edgetok.bundle.processor import ImagePlan
from edgetok.errors import InputError
from edgetok.families.parts import open_processor

if TYPE_CHECKING:
    from pathlib import Path

    from edgetok.families.checkpoint import Checkpoint

_Resample = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
_RESAMPLE: dict[int, _Resample] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
}  # Pillow's numbers


def read_image_plan(checkpoint: Checkpoint, side_px: int | None) -> ImagePlan:
    """Read a CLIP or SigLIP style image processor that yields squares of `side_px` pixels.

    Args:
        side_px: None for a tower that takes squares of any size.

    Raises:
        InputError: if there is no such configuration, or it yields another size.
    """
    plan = plan_of(load_settings(checkpoint))
    result = plan.crop_px or plan.resize_px
    if side_px is None and result is not None and result[0] == result[1]:
        side_px = result[0]
    if result != [side_px, side_px]:
        wanted = "squares" if side_px is None else f"{side_px} x {side_px}"
        raise InputError(f"the image processor yields {result}, but the tower wants {wanted}")
    return plan


def plan_of(config: dict[str, Any]) -> ImagePlan:
    """The plan of an image processor that resizes, and perhaps cuts out the middle.

    Args:
        config: the values of the loaded class.

    Raises:
        InputError: for values that no plan has.
    """
    kind = str(config.get("image_processor_type", ""))
    values = read_values(config)
    shortest, exact = _read_resize(config)
    crop = _read_pair(config.get("crop_size")) if config.get("do_center_crop") else None
    if kind.startswith("ConvNext") and shortest is not None:
        if shortest < _CONVNEXT_WHOLE:  # more is resized than is kept
            shortest, crop = int(shortest / config["crop_pct"]), [shortest, shortest]
        else:
            exact, shortest = [shortest, shortest], None
    square = None
    if config.get("do_pad") and kind.startswith("LlavaImageProcessor"):
        square = [int(mean * 255) for mean in values["mean"]] if _has_mean(config) else [0] * 3
    elif config.get("do_pad") and config.get("pad_size"):
        raise InputError("an image processor with pad_size is not supported; leave do_pad out")
    return ImagePlan(
        resize_shortest_px=shortest, resize_px=exact, crop_px=crop, square_rgb=square, **values
    )


def plan_stretched(config: dict[str, Any], size_px: tuple[int, int]) -> ImagePlan:
    """The plan of a family of any size: images are stretched to this height and width.

    Args:
        config: the values of the loaded class.

    Raises:
        InputError: for values that no plan has.
    """
    return ImagePlan(
        resize_shortest_px=None, resize_px=list(size_px), crop_px=None, **read_values(config)
    )


_CONVNEXT_WHOLE = 384


def _has_mean(config: dict[str, Any]) -> bool:
    return config.get("image_mean") is not None


def size_of(plan: ImagePlan) -> tuple[int, int]:
    """Height and width of every image after a plan.

    Raises:
        InputError: if they depend on the image.
    """
    size = plan.crop_px or plan.resize_px
    if size is None:
        raise InputError(
            "the image processor yields pictures of many sizes; only one size can be exported, so "
            "give it a crop_size, or height and width"
        )
    return size[0], size[1]


def read_processor_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The image processor's configuration.

    Raises:
        InputError: if there is none.
    """
    config = checkpoint.read_json("processor_config.json").get("image_processor")
    config = config or checkpoint.read_json("preprocessor_config.json")
    if not config:
        raise InputError(
            f"{checkpoint.path} has neither preprocessor_config.json nor an image_processor"
        )
    return config


def load_settings(
    checkpoint: Checkpoint, opened: Callable[[Path], Any] = open_processor
) -> dict[str, Any]:
    """The values of the checkpoint's image processor, those among them that its file leaves out.

    Raises:
        InputError: if there is none, or transformers cannot load it.
    """
    read_processor_config(checkpoint)
    try:
        settings: dict[str, Any] = opened(checkpoint.path).to_dict()
    except Exception as error:  # transformers raises whatever its dependencies do
        raise InputError(
            f"{checkpoint.path}: its image processor cannot be loaded: "
            f"{(str(error).strip().splitlines() or [type(error).__name__])[0][:300]}"
        ) from error
    return settings


def read_values(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of an image plan that say how pixels become numbers.

    Raises:
        InputError: for a filter that Pillow does not have, or means of other than three channels.
    """
    scale = float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0
    normalize = config.get("do_normalize", True)
    number = config.get("resample", 3)
    if number not in _RESAMPLE:
        raise InputError(
            f"the image processor's resample is {number!r}; Pillow has the filters "
            f"{', '.join(f'{n} ({name})' for n, name in _RESAMPLE.items())}"
        )
    return {
        "resample": _RESAMPLE[number],
        "rescale": scale,
        "mean": _read_channels("image_mean", config) if normalize else [0.0] * 3,
        "std": _read_channels("image_std", config) if normalize else [1.0] * 3,
    }


def _read_channels(name: str, config: dict[str, Any]) -> list[float]:
    """One number per channel; a single number stands for all."""
    value = config.get(name)
    numbers = value if isinstance(value, list | tuple) else [value] * 3
    real = all(isinstance(v, int | float) and math.isfinite(v) for v in numbers)
    if len(numbers) != 3 or not real or (name == "image_std" and not all(numbers)):
        raise InputError(
            f"the image processor's {name} is {value!r}; it must be a number, or three, of red, "
            "green and blue" + (", none of them 0" if name == "image_std" else "")
        )
    return [float(v) for v in numbers if v is not None]


def _read_resize(config: dict[str, Any]) -> tuple[int | None, list[int] | None]:
    if not config.get("do_resize", True):
        return None, None
    size = config.get("size", {})
    if isinstance(size, int):
        return size, None
    size = {name: value for name, value in size.items() if value is not None}
    if {"shortest_edge", "longest_edge"} <= size.keys():
        raise InputError(
            f"the image processor's size {size} bounds both sides, so that pictures come in many "
            "sizes; give it a shortest_edge and a crop_size, or height and width"
        )
    if "shortest_edge" in size:
        return int(size["shortest_edge"]), None
    return None, _read_pair(size)


def _read_pair(size: Any) -> list[int]:
    if isinstance(size, int):
        return [size, size]
    if isinstance(size, dict) and {"height", "width"} <= size.keys():
        return [int(size["height"]), int(size["width"])]
    raise InputError(f"image size {size!r} is neither a number nor height and width")
