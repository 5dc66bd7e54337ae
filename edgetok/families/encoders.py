"""Encoders without a language model, by the architecture that `config.json` names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgetok.errors import InputError

if TYPE_CHECKING:
    from edgetok.families.checkpoint import Checkpoint
    from edgetok.families.encoder_parts import EncoderParts

# By `model_type`: the architectures that are known, and the module and function that open them.
ENCODERS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "vit": (("ViTForImageClassification", "ViTModel"), "vit", "open_vit"),
    "deit": (
        ("DeiTForImageClassification", "DeiTForImageClassificationWithTeacher", "DeiTModel"),
        "vit",
        "open_vit",
    ),
    "dinov2": (("Dinov2ForImageClassification", "Dinov2Model"), "vit", "open_dinov2"),
    "dinov2_with_registers": (
        ("Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersModel"),
        "vit",
        "open_dinov2",
    ),
    "dinov3_vit": (("DINOv3ViTModel",), "vit", "open_dinov3"),
    "clip": (("CLIPModel", "CLIPForImageClassification"), "contrastive", "open_clip"),
    "clip_vision_model": (
        ("CLIPVisionModel", "CLIPVisionModelWithProjection"),
        "contrastive",
        "open_clip",
    ),
    "siglip": (("SiglipModel", "SiglipForImageClassification"), "contrastive", "open_siglip"),
    "siglip_vision_model": (("SiglipVisionModel",), "contrastive", "open_siglip"),
    "dpt": (("DPTForDepthEstimation",), "dpt", "open_dpt"),
    "eomt": (("EomtForUniversalSegmentation",), "eomt", "open_eomt"),
}
# Encoders that are not supported, and why.
REFUSED = {
    "sam": "its blocks attend within windows, and pictures are padded as no plan of a bundle has "
    "it; export a plain vision transformer instead",
    "siglip2": "NaFlex pictures have many shapes, and a graph has one; export a SigLIP 2 "
    "checkpoint of a fixed resolution, whose model_type is 'siglip'",
}


def is_encoder(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is of an encoder, and not of a family that answers."""
    return checkpoint.model_type in ENCODERS or checkpoint.model_type in REFUSED


def open_encoder(checkpoint: Checkpoint) -> EncoderParts:
    """Open a checkpoint that `is_encoder` as its parts, weights in float32 on the CPU.

    Raises:
        InputError: for a head that is not known, listing those that are; or an encoder that
            cannot be exported.
    """
    from importlib import import_module

    if checkpoint.model_type in REFUSED:
        raise InputError(
            f"{checkpoint.path}: encoders of type {checkpoint.model_type!r} are not supported: "
            f"{REFUSED[checkpoint.model_type]}"
        )
    known, module, name = ENCODERS[checkpoint.model_type]
    found = checkpoint.config.get("architectures")
    if not isinstance(found, list) or len(found) != 1 or found[0] not in known:
        raise InputError(
            f"{Path(checkpoint.path) / 'config.json'}: architectures {found!r} of type "
            f"{checkpoint.model_type!r} are not supported; edgetok knows {', '.join(known)}"
        )
    open_parts: Callable[[Checkpoint], EncoderParts] = getattr(
        import_module(f"edgetok.families.{module}"), name
    )
    return open_parts(checkpoint)
