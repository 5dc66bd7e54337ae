"""CLIP and SigLIP alone: their vision towers, and whole models that compare images with texts.

Hugging Face: `CLIPModel`, `CLIPVisionModel` (`…WithProjection`), `CLIPForImageClassification`,
`SiglipModel`, `SiglipVisionModel`, `SiglipForImageClassification`. SigLIP 2 checkpoints of a fixed
resolution are SigLIP's; NaFlex ones, whose images have many shapes, are not supported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from edgetok import names
from edgetok.bundle.encoders import Similarity, Task
from edgetok.families.encoder_heads import AttentionPool, MeanHead, RowHead, Unit, unit
from edgetok.families.encoder_images import find_image
from edgetok.families.encoder_parts import (
    EncoderParts,
    TextEncoder,
    embed_patches,
    find_scores,
    find_tower,
    grid_of,
    list_labels,
)
from edgetok.families.encoder_text import find_text_encoder
from edgetok.families.loading import load_checkpoint

if TYPE_CHECKING:
    from edgetok.families.checkpoint import Checkpoint
    from edgetok.families.parts import VisionParts


def open_clip(checkpoint: Checkpoint) -> EncoderParts:
    """CLIP: the CLS row, or the mean of the patches where there is a classifier."""
    model = _load(checkpoint)
    base, image = getattr(model, "vision_model", model), find_image(checkpoint)
    tower = _find_tower(base, image.size_px, prefix=1)
    projection = getattr(model, "visual_projection", nn.Identity())
    head: nn.Module = RowHead(base.post_layernorm, 0, projection)
    if hasattr(model, "classifier"):  # reads rows before the last norm
        head = MeanHead(nn.Identity(), 1, model.classifier)
    return _finish(checkpoint, model, tower, head, image)


def open_siglip(checkpoint: Checkpoint) -> EncoderParts:
    """SigLIP: its pooling attention, or the mean of the patches where there is a classifier."""
    model = _load(checkpoint)
    base, image = getattr(model, "vision_model", model), find_image(checkpoint)
    tower = _find_tower(base, image.size_px, prefix=0)
    if hasattr(model, "classifier"):
        head: nn.Module = MeanHead(base.post_layernorm, 0, model.classifier)
    else:
        head = AttentionPool(base.post_layernorm, base.head)
    return _finish(checkpoint, model, tower, head, image)


def _load(checkpoint: Checkpoint) -> Any:
    import transformers

    (architecture,) = checkpoint.config["architectures"]
    return load_checkpoint(getattr(transformers, architecture), checkpoint)


def _find_tower(base: Any, size_px: tuple[int, int], prefix: int) -> VisionParts:
    patches = base.embeddings.patch_embedding
    embed = embed_patches(base.embeddings, patches, size_px)

    def embed_normed(pixels: Tensor) -> Tensor:
        rows: Tensor = base.pre_layrnorm(embed(pixels))  # CLIP's own spelling
        return rows

    return find_tower(
        base,
        embed_normed if hasattr(base, "pre_layrnorm") else embed,
        tuple(base.encoder.layers),
        prefix,
        grid_of(size_px, base.config.patch_size),
        size_px,
    )


def _finish(
    checkpoint: Checkpoint, model: Any, tower: VisionParts, head: nn.Module, image: Any
) -> EncoderParts:
    task: Task = "embed"
    if hasattr(model, "classifier"):
        task = "classify"
    elif hasattr(model, "logit_scale"):
        task, head = "similarity", Unit(head)
    return EncoderParts(
        family=checkpoint.model_type,
        path=checkpoint.path,
        model=model,
        vision=tower,
        head=head,
        task=task,
        output=names.LOGITS if task == "classify" else names.EMBEDDING,
        taps=(len(tower.blocks) - 1,),
        whole=_whole(model, task),
        image=image.plan,
        process=image.process,
        labels=list_labels(model.config) if task == "classify" else (),
        scores=find_scores(model.config) if task == "classify" else "softmax",
        text=_find_text(checkpoint, model) if task == "similarity" else None,
    )


def _whole(model: Any, task: Task) -> Callable[[Tensor], Tensor]:
    def run(pixels: Tensor) -> Tensor:
        if task == "similarity":
            made: Tensor = unit(model.get_image_features(pixel_values=pixels).pooler_output)
            return made
        out = model(pixel_values=pixels)
        if task == "classify":
            made = out.logits
        else:
            made = out.image_embeds if hasattr(out, "image_embeds") else out.pooler_output
        return made

    return run


def _find_text(checkpoint: Checkpoint, model: Any) -> TextEncoder:
    bias = getattr(model, "logit_bias", None)
    similarity = Similarity(
        scale=float(model.logit_scale.exp()),
        bias=0.0 if bias is None else float(bias),
        kind="softmax" if bias is None else "sigmoid",
    )
    return find_text_encoder(checkpoint, model, similarity)
