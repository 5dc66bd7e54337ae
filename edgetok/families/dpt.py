"""DPT depth (arXiv 2103.13413) on a plain vision transformer: DPT's own, or a DINOv2 backbone.

Hugging Face: `DPTForDepthEstimation`. Its neck reads rows after four blocks, one per patch; those
after a clustering are given back first (Expedit).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgetok import names
from edgetok.errors import InputError
from edgetok.families.encoder_images import find_image
from edgetok.families.encoder_parts import (
    BlockView,
    Encoded,
    EncoderParts,
    embed_patches,
    find_tower,
    grid_of,
)
from edgetok.families.image_plan import read_processor_config
from edgetok.families.loading import load_checkpoint
from edgetok.families.vit import find_dinov2

if TYPE_CHECKING:
    from edgetok.families.checkpoint import Checkpoint

_BACKBONES = ("dinov2",)


def open_dpt(checkpoint: Checkpoint) -> EncoderParts:
    """Load a depth model and point at its parts.

    Raises:
        InputError: for hybrid models and backbones that are no plain vision transformers.
    """
    from transformers import DPTForDepthEstimation

    backbone = _require_plain(checkpoint)
    model = load_checkpoint(DPTForDepthEstimation, checkpoint)
    patch = checkpoint.config["backbone_config"]["patch_size"] if backbone else 1
    image = find_image(checkpoint, **_fixed_size(checkpoint, patch))
    if backbone:
        config = model.backbone.config
        tower = find_dinov2(model.backbone, image.size_px)
        stages = [model.backbone.stage_names.index(name) for name in model.backbone.out_features]
        taps = tuple(stage - 1 for stage in stages)  # stage 0 is the embedding
        norm = model.backbone.layernorm if config.apply_layernorm else nn.Identity()
    else:
        base, patches = model.dpt, model.dpt.embeddings.patch_embeddings.projection

        def embeddings(pixels: Tensor) -> Tensor:
            rows: Tensor = base.embeddings(pixels).last_hidden_states
            return rows

        tower = find_tower(
            base,
            embed_patches(embeddings, patches, image.size_px),
            tuple(view_dpt_block(block) for block in base.encoder.layer),
            1,
            grid_of(image.size_px, patches.kernel_size),
            image.size_px,
        )
        taps, norm = tuple(sorted(model.config.backbone_out_indices)), nn.Identity()
    return EncoderParts(
        family=checkpoint.model_type,
        path=checkpoint.path,
        model=model,
        vision=tower,
        head=DepthHead(model, norm, tower.prefix_tokens, tower.grid),
        task="depth",
        output=names.DEPTH,
        taps=taps,
        whole=lambda pixels: model(pixel_values=pixels).predicted_depth,
        image=image.plan,
        process=image.process,
        needs_patches=True,
    )


class DepthHead(nn.Module):
    """Rows after each tap -> depth [1, height, width], by Hugging Face's neck and head."""

    def __init__(self, model: Any, norm: nn.Module, prefix: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.norm, self.neck, self.head = norm, model.neck, model.head
        self.prefix, self.grid = prefix, grid

    def forward(self, seen: Encoded) -> Tensor:
        rows = [self.norm(seen.restore(tap)) for tap in seen.taps]
        rows = [torch.cat([each[:1], each[self.prefix :]])[None] for each in rows]
        depth: Tensor = self.head(self.neck(rows, *self.grid))
        return depth


class DptAttention(nn.Module):
    """DPT's attention under CLIP's names, through Hugging Face's attention interface.

    Its own forward pass takes no mask, and wants heads apart of whoever spells it.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        inner = attention.attention
        self.inner, self.out_proj = inner, attention.output.dense
        self.q_proj, self.k_proj, self.v_proj = inner.query, inner.key, inner.value

    def forward(
        self, rows: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        from edgetok.families.internals import run_attention

        inner: Any = self.inner
        query, key, value = (
            project(rows).reshape(1, rows.shape[1], inner.num_attention_heads, -1).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed, maps = run_attention(inner, query, key, value, attention_mask)
        return self.out_proj(mixed.reshape(rows.shape)), maps


def view_dpt_block(block: Any) -> BlockView:
    """A block of DPT's own transformer under CLIP's names."""
    mlp = nn.Sequential(block.intermediate, block.output.dense)
    return BlockView(
        block.layernorm_before, DptAttention(block.attention), block.layernorm_after, mlp
    )


def _require_plain(checkpoint: Checkpoint) -> bool:
    """Whether there is a backbone of its own; refuses those of other kinds."""
    config = checkpoint.config
    backbone = config.get("backbone_config")
    if config.get("is_hybrid") or config.get("backbone"):
        raise InputError(
            "DPT on a convolutional or timm backbone is not supported; plain vision transformers "
            f"are: DPT's own and {', '.join(_BACKBONES)}"
        )
    if backbone is None:
        return False
    if backbone.get("model_type") not in _BACKBONES:
        raise InputError(
            f"DPT on a backbone of type {backbone.get('model_type')!r} is not supported; plain "
            f"vision transformers are: DPT's own and {', '.join(_BACKBONES)}"
        )
    if backbone.get("reshape_hidden_states", True):
        raise InputError(
            "the backbone reshapes its hidden states, so that DPT's neck has no CLS row; set "
            "reshape_hidden_states to false, as published checkpoints have it"
        )
    return True


def _fixed_size(checkpoint: Checkpoint, patch: int) -> dict[str, Any]:
    """One size for all images: the processor's, in whole patches, whatever their proportions."""
    size = read_processor_config(checkpoint).get("size", 384)
    sides = (size, size) if isinstance(size, int) else (size["height"], size["width"])
    height, width = (max(side // patch, 1) * patch for side in sides)
    return {"size": {"height": height, "width": width}, "keep_aspect_ratio": False, "do_pad": False}
