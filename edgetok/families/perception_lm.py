"""PerceptionLM (arXiv 2504.13180): a Perception Encoder from timm, whose patches are averaged.

Hugging Face: `PerceptionLMForConditionalGeneration`. Images are looked at in one part, as with
`vision_input_type` "vanilla". The projector averages cells of what it made of patches; since its
last matrix may as well be multiplied afterwards, tokens are chosen before that.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from edgetok.bundle.processor import ImagePlan
from edgetok.errors import InputError
from edgetok.families.decoder import find_text
from edgetok.families.image_plan import load_settings, plan_stretched
from edgetok.families.loading import load_checkpoint
from edgetok.families.parts import Framing, Grid, Parts, VisionParts, stretch
from edgetok.families.prompt_plan import read_prompt
from edgetok.families.timm_tower import find_whole_tower, require_timm

if TYPE_CHECKING:
    from torch import Tensor

    from edgetok.families.checkpoint import Checkpoint


def open_parts(checkpoint: Checkpoint, framing: Framing) -> Parts:
    """Load a PerceptionLM and point at its parts.

    Raises:
        IncompatibleError: if timm cannot be imported.
        InputError: if its image processor does not fit its tower, or patches fill no whole cells.
    """
    require_timm(checkpoint)
    from transformers import PerceptionLMForConditionalGeneration

    model = load_checkpoint(PerceptionLMForConditionalGeneration, checkpoint)
    vision = _find_vision(model)
    return Parts(
        family="perception_lm",
        path=checkpoint.path,
        model=model,
        vision=vision,
        projector=model.model.multi_modal_projector.linear_2,
        text=find_text(model.model.language_model, model.lm_head, model),
        image=_plan_image(checkpoint, vision.image_px),
        prompt=read_prompt(checkpoint, model.config.image_token_id),
        process=partial(_process, vision.image_px),
        fixed={"size": list(vision.image_px), "vision_input_type": "vanilla"},
    )


def _find_vision(model: Any) -> VisionParts:
    tower, projector, config = (
        model.model.vision_tower,
        model.model.multi_modal_projector,
        model.config,
    )
    patches, image_px = (
        tower.timm_model.patch_embed.grid_size,
        tower.timm_model.patch_embed.img_size,
    )
    cell, prefix = config.projector_pooling_ratio, int(config.vision_use_cls_token)
    if (
        patches[0] != patches[1]
        or patches[0] % cell
        or tower.timm_model.num_prefix_tokens != prefix
    ):
        raise InputError(
            f"a tower of {patches[0]} x {patches[1]} patches behind "
            f"{tower.timm_model.num_prefix_tokens} other rows is not supported with cells of "
            f"{cell} x {cell} and vision_use_cls_token {config.vision_use_cls_token}; squares of "
            "whole cells are, behind a CLS token or none"
        )
    side = patches[0] // cell

    def finish(rows: Tensor) -> Tensor:
        made: Tensor = projector.gelu(projector.linear_1(rows))
        cells = made.reshape(made.shape[0], side, cell, side, cell, made.shape[2])
        return cells.mean((2, 4)).flatten(1, 2)

    return find_whole_tower(
        tower,
        (side, side),
        tuple(image_px),
        tower.timm_model.embed_dim,
        finish=finish,
        cell=cell,
        feature_width=projector.linear_1.out_features,
        stems=(projector.linear_1,),
    )


def _plan_image(checkpoint: Checkpoint, image_px: Grid) -> ImagePlan:
    config = load_settings(checkpoint)
    side_px = config.get("tile_size", 448)
    if image_px != (side_px, side_px):
        raise InputError(
            f"the image processor makes tiles of {side_px} pixels, but the tower wants "
            f"{image_px[0]} x {image_px[1]}"
        )
    return plan_stretched(config, image_px)


def _process(image_px: Grid, processor: Any, picture: Any) -> Tensor:
    stretched = stretch(processor, picture, image_px)
    out = processor(images=stretched, vision_input_type="vanilla", return_tensors="pt")
    pixels: Tensor = out["pixel_values"][0]
    return pixels.float()
