"""EoMT segmentation (arXiv 2503.19108): a plain vision transformer that is its own mask decoder.

Hugging Face: `EomtForUniversalSegmentation`. Queries join the rows before the last blocks;
here those blocks belong to the head. Methods act in the blocks before them, the queries look at
what these leave, and masks are made of the rows given back (Expedit). What comes out is a score of
each class at each place: a query's class probabilities times its mask, summed over queries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgetok import names
from edgetok.errors import InputError
from edgetok.families.encoder_images import find_image
from edgetok.families.encoder_parts import (
    Encoded,
    EncoderParts,
    embed_patches,
    find_tower,
    grid_of,
    list_labels,
    view_dino_block,
)
from edgetok.families.loading import load_checkpoint

if TYPE_CHECKING:
    from edgetok.families.checkpoint import Checkpoint


def open_eomt(checkpoint: Checkpoint) -> EncoderParts:
    """Load a segmentation model and point at its parts. Images are stretched to its square.

    Raises:
        InputError: for a checkpoint in the middle of its training, whose attention is masked.
    """
    from transformers import EomtForUniversalSegmentation

    model = load_checkpoint(EomtForUniversalSegmentation, checkpoint)
    if bool((model.attn_mask_probs > 0).any()):
        raise InputError(
            f"{checkpoint.path}: attn_mask_probs is not 0, so queries draw what they look at; "
            "export a checkpoint whose training is finished"
        )
    side = int(model.config.image_size)
    fixed = {"do_split_image": False, "do_pad": False, "size": {"height": side, "width": side}}
    image = find_image(checkpoint, **fixed)
    first = len(model.layers) - model.config.num_blocks
    patches = model.embeddings.patch_embeddings.projection
    tower = find_tower(
        model,
        embed_patches(model.embeddings, patches, image.size_px),
        tuple(view_dino_block(block) for block in model.layers[:first]),
        model.embeddings.num_prefix_tokens,
        grid_of(image.size_px, patches.kernel_size),
        image.size_px,
    )

    def whole(pixels: Tensor) -> Tensor:
        out = model(pixel_values=pixels)
        return score_classes(out.class_queries_logits, out.masks_queries_logits)

    return EncoderParts(
        family=checkpoint.model_type,
        path=checkpoint.path,
        model=model,
        vision=tower,
        head=SegmentHead(model, first),
        task="segment",
        output=names.SCORES,
        taps=(first - 1,),
        whole=whole,
        image=image.plan,
        process=image.process,
        labels=list_labels(model.config),
        needs_patches=True,
    )


class SegmentHead(nn.Module):
    """Rows -> scores [1, classes, h, w]: the last blocks with queries, then classes and masks."""

    def __init__(self, model: Any, first: int) -> None:
        super().__init__()
        self.model, self.first = model, first

    def forward(self, seen: Encoded) -> Tensor:
        model, queries = self.model, self.model.query.weight
        rows = torch.cat([queries, seen.rows])[None]
        for block in model.layers[self.first :]:
            rows = block(rows, None)
        count = queries.shape[0]
        whole = torch.cat([rows[0, :count], seen.restore(rows[0, count:])])[None]
        masks, classes = model.predict(model.layernorm(whole))
        return score_classes(classes, masks)


def score_classes(classes: Tensor, masks: Tensor) -> Tensor:
    """Logits [1, Q, classes + 1] and [1, Q, h, w] -> scores [1, classes, h, w].

    The last class is that of queries that found nothing.
    """
    shares, (_, count, height, width) = classes.softmax(-1)[..., :-1], masks.shape
    flat = shares.transpose(1, 2) @ masks.sigmoid().reshape(1, count, height * width)
    return flat.reshape(1, -1, height, width)
