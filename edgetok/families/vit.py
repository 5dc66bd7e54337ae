"""Plain vision transformers: ViT, DeiT, DINOv2 (with registers too) and DINOv3.

Hugging Face: `ViTForImageClassification`, `DeiTForImageClassification` (`…WithTeacher`),
`Dinov2ForImageClassification`, `Dinov2WithRegistersForImageClassification`; the models without a
head (`ViTModel`, `Dinov2Model`, …) give the CLS row after the last norm as an embedding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgetok import names
from edgetok.families.encoder_heads import MeanHead, PairHead, RowHead
from edgetok.families.encoder_images import ImageSide, find_image
from edgetok.families.encoder_parts import (
    AttentionView,
    BlockView,
    EncoderParts,
    embed_patches,
    find_scores,
    find_tower,
    grid_of,
    list_labels,
    view_dino_block,
)
from edgetok.families.loading import load_checkpoint

if TYPE_CHECKING:
    from edgetok.families.checkpoint import Checkpoint
    from edgetok.families.parts import VisionParts


def open_vit(checkpoint: Checkpoint) -> EncoderParts:
    """ViT and DeiT, with or without a classifier."""
    model = _load(checkpoint)
    base = getattr(model, model.base_model_prefix, model)
    image = find_image(checkpoint)
    patches = base.embeddings.patch_embeddings.projection
    tower = find_tower(
        base,
        embed_patches(base.embeddings, patches, image.size_px),
        tuple(view_vit_block(block) for block in base.layers),
        2 if hasattr(base.embeddings, "distillation_token") else 1,
        grid_of(image.size_px, patches.kernel_size),
        image.size_px,
    )
    if hasattr(model, "distillation_classifier"):
        head: nn.Module = PairHead(
            base.layernorm, model.cls_classifier, model.distillation_classifier
        )
    else:
        head = RowHead(base.layernorm, 0, getattr(model, "classifier", nn.Identity()))
    classifies = hasattr(model, "classifier") or hasattr(model, "cls_classifier")
    return _finish(checkpoint, model, tower, head, image, classifies=classifies)


def open_dinov2(checkpoint: Checkpoint) -> EncoderParts:
    """DINOv2, with or without registers and a classifier, which reads CLS and mean of patches."""
    model = _load(checkpoint)
    base = getattr(model, model.base_model_prefix, model)
    image = find_image(checkpoint)
    tower = find_dinov2(base, image.size_px)
    head: nn.Module = RowHead(base.layernorm, 0, nn.Identity())
    if hasattr(model, "classifier"):
        head = MeanHead(base.layernorm, tower.prefix_tokens, model.classifier, beside_cls=True)
    classifies = hasattr(model, "classifier")
    return _finish(checkpoint, model, tower, head, image, classifies=classifies)


def find_dinov2(base: Any, size_px: tuple[int, int]) -> VisionParts:
    """The tower of a DINOv2 model or backbone."""
    patches = base.embeddings.patch_embeddings.projection
    return find_tower(
        base,
        embed_patches(base.embeddings, patches, size_px),
        tuple(view_dino_block(block) for block in base.encoder.layer),
        1 + getattr(base.config, "num_register_tokens", 0),
        grid_of(size_px, patches.kernel_size),
        size_px,
    )


def open_dinov3(checkpoint: Checkpoint) -> EncoderParts:
    """DINOv3 without a head. Rows are turned by their places, so that none may be merged."""
    model = _load(checkpoint)
    image = find_image(checkpoint)
    with torch.no_grad():
        places = model.rope_embeddings(torch.zeros(1, 3, *image.size_px))
    tower = find_tower(
        model,
        embed_patches(model.embeddings, model.embeddings.patch_embeddings, image.size_px),
        tuple(view_dino_block(block, position_embeddings=places) for block in model.model.layer),
        1 + model.config.num_register_tokens,
        grid_of(image.size_px, model.config.patch_size),
        image.size_px,
    )
    head = RowHead(model.norm, 0, nn.Identity())
    return _finish(checkpoint, model, tower, head, image, classifies=False, movable=False)


def view_vit_block(block: Any) -> BlockView:
    """A block of ViT or DeiT under CLIP's names."""
    attention = AttentionView(block.attention)
    return BlockView(block.layernorm_before, attention, block.layernorm_after, block.mlp)


def _load(checkpoint: Checkpoint) -> Any:
    import transformers

    (architecture,) = checkpoint.config["architectures"]
    options = {"add_pooling_layer": False} if architecture in ("ViTModel", "DeiTModel") else {}
    return load_checkpoint(getattr(transformers, architecture), checkpoint, **options)


def _finish(
    checkpoint: Checkpoint,
    model: Any,
    tower: VisionParts,
    head: nn.Module,
    image: ImageSide,
    *,
    classifies: bool,
    movable: bool = True,
) -> EncoderParts:
    def whole(pixels: Tensor) -> Tensor:
        out = model(pixel_values=pixels)
        made: Tensor = out.logits if classifies else out.last_hidden_state[:, 0]
        return made

    return EncoderParts(
        family=checkpoint.model_type,
        path=checkpoint.path,
        model=model,
        vision=tower,
        head=head,
        task="classify" if classifies else "embed",
        output=names.LOGITS if classifies else names.EMBEDDING,
        taps=(len(tower.blocks) - 1,),
        whole=whole,
        image=image.plan,
        process=image.process,
        labels=list_labels(model.config) if classifies else (),
        scores=find_scores(model.config) if classifies else "softmax",
        movable=movable,
    )
