"""LLaVA-1.5: a CLIP or SigLIP tower, a two-layer projector, any decoder (arXiv 2310.03744).

Hugging Face: `LlavaForConditionalGeneration`. The projector reads `hidden_states[feature_layer]`,
so the blocks after that layer are never run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgetok.errors import InputError
from edgetok.families.decoder import find_text
from edgetok.families.image_plan import read_image_plan
from edgetok.families.loading import load_checkpoint
from edgetok.families.parts import Framing, Grid, Parts, VisionParts
from edgetok.families.pictures import repeat_pictures
from edgetok.families.prompt_plan import read_gaps, read_prompt

if TYPE_CHECKING:
    from torch import Tensor

    from edgetok.families.checkpoint import Checkpoint

_TOWERS = ("clip_vision_model", "siglip_vision_model")


def open_parts(checkpoint: Checkpoint, framing: Framing) -> Parts:
    """Load the checkpoint and point at its parts.

    Raises:
        InputError: if the tower or the feature selection is not of the LLaVA-1.5 layout.
    """
    from transformers import LlavaForConditionalGeneration

    check_layout(checkpoint)
    model = load_checkpoint(LlavaForConditionalGeneration, checkpoint)
    config = model.config
    token = config.image_token_id
    parts = Parts(
        family="llava",
        path=checkpoint.path,
        model=model,
        vision=find_vision(model),
        projector=model.model.multi_modal_projector,
        text=find_text(model.model.language_model, model.lm_head, model),
        image=read_image_plan(checkpoint, config.vision_config.image_size),
        prompt=read_prompt(checkpoint, token, pictures=framing.images),
    )
    return repeat_pictures(parts, read_gaps(checkpoint, token, str, framing.images))


def check_layout(checkpoint: Checkpoint) -> None:
    """Refuse towers and feature layers of other kinds, before weights are loaded.

    Raises:
        InputError: naming what is there and what is supported.
    """
    vision = checkpoint.config.get("vision_config", {})
    tower = vision.get("model_type", "clip_vision_model") if isinstance(vision, dict) else vision
    if tower not in _TOWERS:
        raise InputError(
            f"vision tower {tower!r} is not supported; LLaVA towers: {', '.join(_TOWERS)}"
        )
    if not isinstance(checkpoint.config.get("vision_feature_layer", -2), int):
        raise InputError(
            "a list in vision_feature_layer is not supported; give one layer, such as -2"
        )


def find_vision(model: Any, tiles: Grid | None = None) -> VisionParts:
    """The parts of a CLIP or SigLIP tower up to `vision_feature_layer`.

    Raises:
        InputError: if the CLS token would go to the language model.
    """
    config, tower = model.config, model.model.vision_tower
    tower = getattr(tower, "vision_model", tower)  # transformers before 5.20 wraps it once more
    vision = config.vision_config
    side = vision.image_size // vision.patch_size
    prefix = 1 if vision.model_type == "clip_vision_model" else 0
    # hidden_states has one entry more than there are blocks: entry 0 is the embedding.
    layer = config.vision_feature_layer
    depth = layer if layer >= 0 else len(tower.encoder.layers) + 1 + layer
    keeps_prefix = config.vision_feature_select_strategy == "full"
    if prefix and keeps_prefix:
        raise InputError(
            "vision_feature_select_strategy 'full' hands the CLS token to the language model; "
            "only 'default' is supported for towers with a CLS token"
        )

    def embed(pixels: Tensor) -> Tensor:
        rows: Tensor = tower.embeddings(pixels)
        if hasattr(tower, "pre_layrnorm"):  # CLIP's own spelling; SigLIP has none
            rows = tower.pre_layrnorm(rows)
        return rows

    return VisionParts(
        model=tower,
        embed=embed,
        blocks=tuple(tower.encoder.layers[:depth]),
        prefix_tokens=prefix,
        grid=(side, side),
        image_px=(vision.image_size, vision.image_size),
        width=vision.hidden_size,
        heads=vision.num_attention_heads,
        next_block=next(iter(tower.encoder.layers[depth:]), None),
        tiles=tiles,
    )
