"""LFM2-VL (arXiv 2511.23404): a SigLIP 2 tower at one size, and a decoder with short convolutions.

Hugging Face: `Lfm2VlForConditionalGeneration`. Images are stretched to a size that is chosen at
export, where Hugging Face's processor takes one near the image's own, or cuts it into tiles. A
visual token is a cell of `downsample_factor` x `downsample_factor` patches.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from edgetok.errors import UsageError
from edgetok.families.decoder import find_text
from edgetok.families.image_plan import plan_stretched, read_processor_config
from edgetok.families.loading import load_checkpoint
from edgetok.families.parts import Framing, Grid, Parts, VisionParts, merge_cells, stretch
from edgetok.families.prompt_plan import read_prompt, surround_image

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from edgetok.families.checkpoint import Checkpoint

SIZE_PX = (512, 512)  # 256 tokens of 2 x 2 patches of 16 pixels, the most that the family reads
_IMAGE, _BEFORE, _BEHIND = "<image>", "<|image_start|>", "<|image_end|>"
_BILINEAR = 2  # what the family's processor does if its file says nothing


def open_parts(checkpoint: Checkpoint, framing: Framing) -> Parts:
    """Load an LFM2-VL and point at its parts.

    Raises:
        InputError: if there is no image processor.
        UsageError: if images of this size have no whole cells, or more or fewer than the family
            reads.
    """
    from transformers import Lfm2VlForConditionalGeneration

    size_px = framing.size_px or SIZE_PX
    processor = {"resample": _BILINEAR} | read_processor_config(checkpoint)
    _require_cells(size_px, checkpoint.config, processor)
    model = load_checkpoint(Lfm2VlForConditionalGeneration, checkpoint)
    config, patch = model.config, model.config.vision_config.patch_size
    settings = _open_processor(processor, patch, checkpoint.path).to_dict()
    return Parts(
        family="lfm2_vl",
        path=checkpoint.path,
        model=model,
        vision=_find_vision(model, size_px),
        projector=_find_projector(model.model.multi_modal_projector),
        text=find_text(model.model.language_model, model.lm_head, model),
        image=plan_stretched(settings, size_px),
        prompt=read_prompt(
            checkpoint, config.image_token_id, surround_image(_IMAGE, _BEFORE, _BEHIND)
        ),
        fixed={"size": list(size_px), "do_image_splitting": False},
        process=partial(_process, size_px, patch),
        open_processor=partial(_open_processor, processor, patch),
    )


def _require_cells(size_px: Grid, config: dict[str, Any], processor: dict[str, Any]) -> None:
    patch = config.get("vision_config", {}).get("patch_size", 16)
    unit = patch * config.get("downsample_factor", 2)
    if any(side % unit for side in size_px):
        raise UsageError(
            f"pictures of {size_px[0]} x {size_px[1]} pixels; both sides must be multiples of "
            f"{unit} for this model (--image-size)"
        )
    tokens = size_px[0] * size_px[1] // unit**2
    fewest, most = processor.get("min_image_tokens", 64), processor.get("max_image_tokens", 256)
    if not fewest <= tokens <= most:
        raise UsageError(
            f"pictures of {size_px[0]} x {size_px[1]} pixels are {tokens} tokens; this model reads "
            f"{fewest} to {most} (--image-size)"
        )


def _find_vision(model: Any, size_px: Grid) -> VisionParts:
    import torch

    tower, config = model.model.vision_tower, model.config.vision_config
    cell, patch, width = model.config.downsample_factor, config.patch_size, config.hidden_size
    lines, columns = size_px[0] // patch, size_px[1] // patch
    grid = (lines // cell, columns // cell)
    shape, embeddings = torch.tensor([[lines, columns]]), tower.embeddings
    side = embeddings.position_embedding_size
    places = embeddings.resize_positional_embeddings(
        embeddings.position_embedding.weight.reshape(side, side, -1), shape, lines * columns
    )

    def embed(pixels: Tensor) -> Tensor:
        rows: Tensor = embeddings.patch_embedding(_cut(pixels, patch)) + places
        return rows

    def finish(patches: Tensor) -> Tensor:
        return merge_cells(tower.post_layernorm(patches), grid, cell)

    def tell(pixels: Tensor) -> dict[str, Tensor]:
        mask = torch.ones(1, lines * columns, dtype=torch.int64)
        cut = _cut(pixels, patch)
        return {"pixel_values": cut, "pixel_attention_mask": mask, "spatial_shapes": shape}

    return VisionParts(
        model=tower,
        embed=embed,
        blocks=tuple(tower.encoder.layers),
        prefix_tokens=0,
        grid=grid,
        image_px=size_px,
        width=width,
        heads=config.num_attention_heads,
        cell=cell,
        feature_width=width * cell**2,
        finish=finish,
        tell=tell,
        stems=(embeddings.patch_embedding,),
    )


def _cut(pixels: Tensor, patch: int) -> Tensor:
    """Pixels [1, 3, h, w] -> patches [1, n, patch * patch * 3], line by line."""
    height, width = pixels.shape[2] // patch, pixels.shape[3] // patch
    cut = pixels.reshape(1, 3, height, patch, width, patch).permute(0, 2, 4, 3, 5, 1)
    return cut.reshape(1, height * width, -1)


def _find_projector(projector: Any) -> nn.Module:
    """What of the projector comes after its pixel unshuffle."""
    from torch import nn

    norm = projector.layer_norm if projector.use_layer_norm else nn.Identity()
    chain = (norm, projector.linear_1, projector.act, projector.linear_2)
    return nn.Sequential(*chain).eval()


def _open_processor(config: dict[str, Any], patch: int, _: Path) -> Any:
    """SigLIP 2's processor with this family's numbers.

    The family's own makes the same of an image that has its size already, but needs torchvision.
    """
    from edgetok.families.internals import open_patch_processor

    names = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "resample")
    told = {name: config[name] for name in names if name in config}
    return open_patch_processor(patch, told)


def _process(size_px: Grid, patch: int, processor: Any, picture: Any) -> Tensor:
    """The processor's patches put together again as pixels [1, 3, h, w]."""
    height, width = size_px
    lines, columns = height // patch, width // patch
    stretched = stretch(processor, picture, size_px)
    out = processor(images=stretched, max_num_patches=lines * columns, return_tensors="pt")
    cut = out["pixel_values"].reshape(lines, columns, patch, patch, 3)
    pixels: Tensor = cut.permute(4, 0, 2, 1, 3).reshape(1, 3, height, width)
    return pixels.float()
