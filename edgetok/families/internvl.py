"""InternVL 2.5 and 3 as Hugging Face has them: 2 x 2 patches make one visual token.

Hugging Face: `InternVLForConditionalGeneration` (arXiv 2412.05271, 2504.10479). Images are looked
at in one part, as the family's processor does by default (`crop_to_patches` false).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from edgetok.errors import InputError
from edgetok.families.decoder import find_text
from edgetok.families.image_plan import read_image_plan
from edgetok.families.loading import load_checkpoint
from edgetok.families.parts import Framing, Parts, VisionParts, merge_cells
from edgetok.families.pictures import repeat_pictures
from edgetok.families.prompt_plan import read_gaps, read_prompt, surround_image

if TYPE_CHECKING:
    from torch import Tensor

    from edgetok.families.checkpoint import Checkpoint


def open_parts(checkpoint: Checkpoint, framing: Framing) -> Parts:
    """Load the checkpoint and point at its parts.

    Raises:
        InputError: if images are not square or the CLS token would go to the language model.
    """
    from transformers import InternVLForConditionalGeneration

    model = load_checkpoint(InternVLForConditionalGeneration, checkpoint)
    config, vision = model.config, _find_vision(model)
    token = config.image_token_id
    around = surround_image("<IMG_CONTEXT>", "<img>", "</img>")
    parts = Parts(
        family="internvl",
        path=checkpoint.path,
        model=model,
        vision=vision,
        projector=model.model.multi_modal_projector,
        text=find_text(model.model.language_model, model.lm_head, model),
        image=read_image_plan(checkpoint, vision.image_px[0]),
        prompt=read_prompt(checkpoint, token, around, pictures=framing.images),
        process=_process,
        fixed={"crop_to_patches": False},
    )
    return repeat_pictures(parts, read_gaps(checkpoint, token, around, framing.images))


def _process(processor: Any, picture: Any) -> Tensor:
    out = processor(images=picture, crop_to_patches=False, return_tensors="pt")
    pixels: Tensor = out["pixel_values"]
    return pixels.float()


def _find_vision(model: Any) -> VisionParts:
    config, tower = model.config, model.model.vision_tower
    height, width = config.vision_config.image_size
    if height != width or config.vision_feature_select_strategy != "default":
        raise InputError(
            f"an image size of {height} x {width} with vision_feature_select_strategy "
            f"{config.vision_feature_select_strategy!r} is not supported; square pictures and "
            "'default' are"
        )
    layer, blocks = config.vision_feature_layer, tower.encoder.layer
    depth = layer if layer >= 0 else len(blocks) + 1 + layer
    cell = int(1 / config.downsample_ratio)
    side = height // config.vision_config.patch_size[0] // cell

    def finish(patches: Tensor) -> Tensor:
        # The last layer is read after the tower's own norm, the others as they are.
        rows = tower.layernorm(patches) if layer == -1 else patches
        return merge_cells(rows, (side, side), cell)

    return VisionParts(
        model=tower,
        embed=partial(_embed, tower),
        blocks=tuple(blocks[:depth]),
        prefix_tokens=1,
        grid=(side, side),
        image_px=(height, width),
        width=config.vision_config.hidden_size,
        heads=config.vision_config.num_attention_heads,
        next_block=next(iter(blocks[depth:]), None),
        cell=cell,
        feature_width=config.vision_config.hidden_size * cell**2,
        run=lambda block, rows: block(rows),
        finish=finish,
    )


def _embed(tower: Any, pixels: Tensor) -> Tensor:
    rows: Tensor = tower.embeddings(pixels)
    return rows
