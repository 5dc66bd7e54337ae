"""FastVLM (arXiv 2412.13303): a convolutional FastViTHD tower, few tokens from large pictures.

Hugging Face: `FastVlmForConditionalGeneration`. The tower comes from timm, and there is no CLS
token.
"""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING, Any

from edgetok.families.decoder import find_text
from edgetok.families.image_plan import read_image_plan
from edgetok.families.loading import load_checkpoint
from edgetok.families.parts import Grid, Parts, VisionParts, keep_rows, refuse_tiles
from edgetok.families.prompt_plan import read_prompt_plan
from edgetok.families.timm_tower import find_whole_tower, require_timm

if TYPE_CHECKING:
    from edgetok.families.checkpoint import Checkpoint


def open_parts(checkpoint: Checkpoint, tiles: Grid | None = None) -> Parts:
    """Load a FastVLM and point at its parts.

    Raises:
        IncompatibleError: if timm cannot be imported.
        InputError: if its image processor does not fit its tower.
    """
    require_timm(checkpoint)
    from transformers import FastVlmForConditionalGeneration

    refuse_tiles(checkpoint, tiles)
    model = load_checkpoint(FastVlmForConditionalGeneration, checkpoint)
    vision = _find_vision(model)
    return Parts(
        family="fast_vlm",
        path=checkpoint.path,
        model=model,
        vision=vision,
        projector=model.model.multi_modal_projector,
        text=find_text(model.model.language_model, model.lm_head, model),
        image=read_image_plan(checkpoint, vision.image_px[0]),
        prompt=read_prompt_plan(checkpoint, model.config.image_token_id),
    )


def _find_vision(model: Any) -> VisionParts:
    """The tower at the size that gives the `image_seq_length` tokens of the configuration."""
    tower, config = model.model.vision_tower, model.config
    side = isqrt(config.image_seq_length)
    side_px = side * tower.timm_model.feature_info[-1]["reduction"]
    width = config.vision_config.hidden_size
    return find_whole_tower(tower, (side, side), (side_px, side_px), width, finish=keep_rows)
