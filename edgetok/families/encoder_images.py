"""The image side of an encoder's checkpoint: the plan of a bundle, and the processor it copies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgetok.errors import InputError
from edgetok.families.image_plan import plan_of, read_processor_config, size_of
from edgetok.families.parts import process

if TYPE_CHECKING:
    from torch import Tensor

    from edgetok.bundle.processor import ImagePlan
    from edgetok.families.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class Processing:
    """Hugging Face's processor: a Pillow image -> pixels [1, 3, h, w].

    `fixed`: its settings that the export gives it.
    """

    processor: Any
    fixed: Mapping[str, Any]

    def __call__(self, picture: Any) -> Tensor:
        return process(self.processor, picture)


@dataclass(frozen=True, slots=True)
class ImageSide:
    """How images become pixels.

    Args:
        plan: what the bundle does with an image.
        size_px: height and width after it.
        process: what Hugging Face's processor does with it.
    """

    plan: ImagePlan
    size_px: tuple[int, int]
    process: Processing


def find_image(checkpoint: Checkpoint, **changes: Any) -> ImageSide:
    """The image side of a checkpoint; `changes` are settings that the export fixes.

    The settings are those that Hugging Face reads: what a file leaves out differs by class.

    Raises:
        InputError: if there is no image processor, or images come in many sizes.
    """
    read_processor_config(checkpoint)
    processor = _load(checkpoint, changes)
    plan = plan_of(processor.to_dict())
    return ImageSide(plan, size_of(plan), Processing(processor, changes))


def _load(checkpoint: Checkpoint, changes: dict[str, Any]) -> Any:
    import transformers

    # DINOv3's own processor needs torchvision; this one does the same, but rounds resized pixels.
    own = checkpoint.model_type == "dinov3_vit"
    kind = transformers.ViTImageProcessorPil if own else transformers.AutoImageProcessor
    how = {} if own else {"backend": "pil"}
    try:
        return kind.from_pretrained(str(checkpoint.path), local_files_only=True, **how, **changes)
    except Exception as error:  # transformers raises whatever its dependencies do
        raise InputError(
            f"{checkpoint.path}: its image processor cannot be loaded: "
            f"{(str(error).strip().splitlines() or [type(error).__name__])[0][:300]}"
        ) from error
