"""LLaVA-1.5: a CLIP or SigLIP tower, a two-layer projector, any decoder (arXiv 2310.03744).

Hugging Face: `LlavaForConditionalGeneration`. The projector reads `hidden_states[feature_layer]`,
so the blocks behind that layer are never run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgetok.errors import InputError
from edgetok.families.image_plan import read_image_plan
from edgetok.families.loading import load_checkpoint
from edgetok.families.parts import Parts, TextParts, VisionParts
from edgetok.families.prompt_plan import read_prompt_plan

if TYPE_CHECKING:
    from torch import Tensor

    from edgetok.families.checkpoint import Checkpoint

_TOWERS = ("clip_vision_model", "siglip_vision_model")


def open_parts(checkpoint: Checkpoint) -> Parts:
    """Load the checkpoint and point at its parts.

    Raises:
        InputError: if the tower or the feature selection is not of the LLaVA-1.5 layout.
    """
    from transformers import LlavaForConditionalGeneration

    _check_layout(checkpoint)
    model = load_checkpoint(LlavaForConditionalGeneration, checkpoint)
    config = model.config
    return Parts(
        family="llava",
        path=checkpoint.path,
        model=model,
        vision=_find_vision(model),
        projector=model.model.multi_modal_projector,
        text=find_text(model.model.language_model, model.lm_head, model),
        image=read_image_plan(checkpoint, config.vision_config.image_size),
        prompt=read_prompt_plan(checkpoint, config.image_token_id),
    )


def _check_layout(checkpoint: Checkpoint) -> None:
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


def _find_vision(model: Any) -> VisionParts:
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
    )


def find_text(decoder: Any, head: Any, model: Any) -> TextParts:
    """The parts of a Llama-like decoder: `layers`, `norm`, `embed_tokens`, `rotary_emb`."""
    from optimum.utils import NormalizedTextConfig

    config = decoder.config
    common = NormalizedTextConfig(config)  # by names that all decoders share
    heads = common.num_attention_heads
    stop = model.generation_config.eos_token_id
    stop = config.eos_token_id if stop is None else stop
    stop_ids = (
        tuple(stop) if isinstance(stop, list | tuple) else (stop,) if stop is not None else ()
    )
    pad = model.config.text_config.pad_token_id
    return TextParts(
        model=decoder,
        layers=tuple(decoder.layers),
        norm=decoder.norm,
        embed=decoder.embed_tokens,
        head=head,
        rotary=decoder.rotary_emb,
        hidden=common.hidden_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or common.hidden_size // heads,
        vocabulary=common.vocab_size,
        max_positions=config.max_position_embeddings,
        stop_ids=stop_ids,
        pad_id=pad if pad is not None else 0,
        rotary_kinds=_rotary_kinds(decoder),
    )


def _rotary_kinds(decoder: Any) -> tuple[str, ...]:
    kinds = getattr(decoder.rotary_emb, "layer_types", None)
    return tuple(decoder.config.layer_types) if kinds else ()
