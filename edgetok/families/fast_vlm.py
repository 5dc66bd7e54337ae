"""FastVLM (arXiv 2412.13303): a convolutional FastViTHD tower, few tokens from large images.

Hugging Face: `FastVlmForConditionalGeneration`. The tower comes from timm, and there is no CLS
token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgetok.errors import InputError
from edgetok.families.decoder import find_text
from edgetok.families.image_plan import read_image_plan
from edgetok.families.loading import load_checkpoint
from edgetok.families.parts import Framing, Parts, VisionParts, keep_rows
from edgetok.families.prompt_plan import read_prompt
from edgetok.families.timm_tower import find_whole_tower, require_timm

if TYPE_CHECKING:
    from edgetok.bundle.processor import ImagePlan
    from edgetok.families.checkpoint import Checkpoint


def open_parts(checkpoint: Checkpoint, framing: Framing) -> Parts:
    """Load a FastVLM and point at its parts.

    Raises:
        IncompatibleError: if timm cannot be imported.
        InputError: if its image processor does not fit its tower.
    """
    require_timm(checkpoint)
    from transformers import FastVlmForConditionalGeneration

    model = load_checkpoint(FastVlmForConditionalGeneration, checkpoint)
    image = read_image_plan(checkpoint, None)
    vision = _find_vision(model, image)
    return Parts(
        family="fast_vlm",
        path=checkpoint.path,
        model=model,
        vision=vision,
        projector=model.model.multi_modal_projector,
        text=find_text(model.model.language_model, model.lm_head, model),
        image=image,
        prompt=read_prompt(checkpoint, model.config.image_token_id),
    )


def _find_vision(model: Any, image: ImagePlan) -> VisionParts:
    """The tower at the size of the images that the processor makes."""
    tower, width = model.model.vision_tower, model.config.vision_config.hidden_size
    unit = tower.timm_model.feature_info[-1]["reduction"]
    (side_px, _) = image.crop_px or image.resize_px or (0, 0)
    if side_px % unit:
        raise InputError(
            f"the image processor makes squares of {side_px} pixels; the tower wants multiples of "
            f"{unit}"
        )
    side = side_px // unit
    return find_whole_tower(tower, (side, side), (side_px, side_px), width, finish=keep_rows)
