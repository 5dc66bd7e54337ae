"""From `preprocessor_config.json` to the image plan of a bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from edgetok.bundle.processor import ImagePlan
from edgetok.errors import InputError

if TYPE_CHECKING:
    from edgetok.families.checkpoint import Checkpoint

_Resample = Literal["nearest", "bilinear", "bicubic", "lanczos"]
_RESAMPLE: dict[int, _Resample] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
}  # Pillow's numbers


def read_image_plan(checkpoint: Checkpoint, side_px: int | None) -> ImagePlan:
    """Read a CLIP or SigLIP style image processor that yields squares of `side_px` pixels.

    Args:
        side_px: None for a tower that takes squares of any size.

    Raises:
        InputError: if there is no such configuration, or it yields another size.
    """
    plan = plan_of(read_processor_config(checkpoint))
    result = plan.crop_px or plan.resize_px
    if side_px is None and result is not None and result[0] == result[1]:
        side_px = result[0]
    if result != [side_px, side_px]:
        wanted = "squares" if side_px is None else f"{side_px} x {side_px}"
        raise InputError(f"the image processor yields {result}, but the tower wants {wanted}")
    return plan


def plan_of(config: dict[str, Any]) -> ImagePlan:
    """The plan of an image processor that resizes, and perhaps cuts out the middle.

    Raises:
        InputError: if it does not resize.
    """
    shortest, exact = _read_resize(config)
    crop = _read_pair(config.get("crop_size")) if config.get("do_center_crop") else None
    return ImagePlan(
        resize_shortest_px=shortest, resize_px=exact, crop_px=crop, **read_values(config)
    )


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


def read_values(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of an image plan that say how pixels become numbers."""
    scale = float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0
    normalize = config.get("do_normalize", True)
    return {
        "resample": _RESAMPLE.get(config.get("resample", 3), "bicubic"),
        "rescale": scale,
        "mean": [float(v) for v in config["image_mean"]] if normalize else [0.0] * 3,
        "std": [float(v) for v in config["image_std"]] if normalize else [1.0] * 3,
    }


def _read_resize(config: dict[str, Any]) -> tuple[int | None, list[int] | None]:
    if not config.get("do_resize", True):
        raise InputError("an image processor without resizing cannot serve a tower of fixed size")
    size = config.get("size", {})
    if isinstance(size, int):
        return size, None
    if "shortest_edge" in size:
        return int(size["shortest_edge"]), None
    return None, _read_pair(size)


def _read_pair(size: Any) -> list[int]:
    if isinstance(size, int):
        return [size, size]
    if isinstance(size, dict) and {"height", "width"} <= size.keys():
        return [int(size["height"]), int(size["width"])]
    raise InputError(f"image size {size!r} is neither a number nor height and width")
