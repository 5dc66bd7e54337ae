"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL (arXiv 2409.12191, 2502.13923, 2511.21631) at one size.

Hugging Face: `Qwen2VLForConditionalGeneration`, `Qwen2_5_VLForConditionalGeneration`,
`Qwen3VLForConditionalGeneration`. Images are stretched to a size that is chosen at export, where
Hugging Face's processor takes one near the image's own. A visual token is a group of 2 x 2
patches, whose rows lie side by side in the tower; in Qwen2.5-VL groups lie window by window, and
most blocks attend within a window. In the decoder rotary positions have three axes: time, line and
column of a group. Qwen3-VL also adds rows of earlier blocks to the image's rows after the
decoder's first layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from edgetok.errors import UsageError
from edgetok.families.decoder import find_text
from edgetok.families.image_plan import load_settings, plan_stretched
from edgetok.families.loading import load_checkpoint
from edgetok.families.parts import Framing, Grid, Parts, VisionParts, stretch
from edgetok.families.prompt_plan import read_prompt

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgetok.families.checkpoint import Checkpoint

SIZE_PX = (448, 448)  # 256 tokens at a patch of 14 pixels


def open_qwen2(checkpoint: Checkpoint, framing: Framing) -> Parts:
    """Load a Qwen2-VL and point at its parts.

    Raises:
        UsageError: if images of this size have no whole groups.
    """
    from transformers import Qwen2VLForConditionalGeneration

    return _open(checkpoint, Qwen2VLForConditionalGeneration, framing)


def open_qwen2_5(checkpoint: Checkpoint, framing: Framing) -> Parts:
    """Load a Qwen2.5-VL and point at its parts.

    Raises:
        UsageError: if images of this size have no whole windows.
    """
    from transformers import Qwen2_5_VLForConditionalGeneration

    return _open(checkpoint, Qwen2_5_VLForConditionalGeneration, framing)


def open_qwen3(checkpoint: Checkpoint, framing: Framing) -> Parts:
    """Load a Qwen3-VL and point at its parts.

    Raises:
        UsageError: if images of this size have no whole groups.
    """
    from transformers import Qwen3VLForConditionalGeneration

    return _open(checkpoint, Qwen3VLForConditionalGeneration, framing)


def _open(checkpoint: Checkpoint, kind: Any, framing: Framing) -> Parts:
    size_px = framing.size_px or SIZE_PX
    vision_config = checkpoint.config.get("vision_config", {})
    _require_whole(size_px, vision_config)
    model = load_checkpoint(kind, checkpoint)
    config, decoder = model.config, model.model.language_model
    return Parts(
        family=checkpoint.model_type,
        path=checkpoint.path,
        model=model,
        vision=_find_vision(model.model.visual, size_px),
        projector=_find_projector(model.model.visual.merger),
        text=find_text(decoder, model.lm_head, model, mrope_axes=_find_axes(decoder)),
        image=plan_stretched(load_settings(checkpoint), size_px),
        prompt=read_prompt(checkpoint, config.image_token_id),
        fixed={"size": list(size_px)},
        process=partial(_process, size_px, config.vision_config),
        deepstack_projectors=_find_deep(model.model.visual),
    )


def _require_whole(size_px: Grid, config: dict[str, Any]) -> None:
    group = config.get("patch_size", 14) * config.get("spatial_merge_size", 2)
    unit = config.get("window_size", group)
    if min(size_px) < unit or any(side % unit for side in size_px):
        raise UsageError(
            f"pictures of {size_px[0]} x {size_px[1]} pixels; both sides must be multiples of "
            f"{unit} for this model (--image-size)"
        )


@dataclass(frozen=True)
class Packed:
    """The order in which a tower has its patches, and how its blocks are run.

    Args:
        tokens: int64 [N], the token, in raster order, of each group of rows.
        windows: of each block, how many windows of rows attend to themselves; by `id`.
        cos, sin: float32 [n, H], rotary embedding of the rows.
    """

    merge: int
    grid: Grid
    tokens: Tensor
    windows: dict[int, int]
    cos: Tensor
    sin: Tensor

    def pack(self, patches: Tensor) -> Tensor:
        """Patches [1, V, rows, columns] -> rows [1, n, V] as the tower has them."""
        (down, across), m, width = self.grid, self.merge, patches.shape[1]
        groups = patches.reshape(width, down, m, across, m).permute(1, 3, 2, 4, 0)
        groups = groups.reshape(down * across, m * m, width)
        return groups.index_select(0, self.tokens).reshape(1, -1, width)

    def unpack(self, groups: Tensor) -> Tensor:
        """What belongs to groups of rows [N, ...] -> the same in raster order."""
        return groups.index_select(0, self.tokens.argsort())

    def pool(self, rows: Tensor) -> Tensor:
        """What belongs to rows [n, ...] -> means over groups [N, ...], raster order."""
        return self.unpack(rows.reshape(-1, self.merge**2, *rows.shape[1:]).mean(1))

    def run(self, block: Any, rows: Tensor) -> Tensor:
        """A block over rows [1, n, V]; each window attends to itself."""
        from edgetok.families.internals import rotate_vision, run_attention

        attention, count = block.attn, rows.shape[1]
        windows, heads = self.windows[id(block)], attention.num_heads
        split = attention.qkv(block.norm1(rows[0])).reshape(count, 3, heads, -1)
        query, key, value = split.permute(1, 0, 2, 3).unbind(0)  # [n, heads, H]
        query, key = rotate_vision(attention, query, key, self.cos, self.sin)
        parts = [p.reshape(windows, -1, *p.shape[1:]).transpose(1, 2) for p in (query, key, value)]
        found, _ = run_attention(attention, *parts)
        rows = rows + attention.proj(found.reshape(1, count, -1))
        out: Tensor = rows + block.mlp(block.norm2(rows))
        return out


def _find_projector(merger: Any) -> nn.Module:
    """What of a merger comes after its norm."""
    from torch import nn

    if hasattr(merger, "mlp"):
        projector: nn.Module = merger.mlp
        return projector
    return nn.Sequential(merger.linear_fc1, merger.act_fn, merger.linear_fc2).eval()


def _find_deep(tower: Any) -> tuple[nn.Module, ...]:
    """The mergers of earlier blocks, whose norms read whole groups."""
    from torch import nn

    mergers = getattr(tower, "deepstack_merger_list", ())
    chains = ((m.norm, m.linear_fc1, m.act_fn, m.linear_fc2) for m in mergers)
    return tuple(nn.Sequential(*chain).eval() for chain in chains)


def _find_places(tower: Any, patches: Grid) -> Tensor | float:
    """Rows [n, V] that are added to patches for their places; 0 where rotation says it all."""
    from edgetok.families.internals import interpolate_places

    return interpolate_places(tower, *patches) if hasattr(tower, "pos_embed") else 0.0


def _find_vision(tower: Any, size_px: Grid) -> VisionParts:
    import torch

    config, merge = tower.config, tower.spatial_merge_size
    width = getattr(config, "embed_dim", None) or config.hidden_size
    patches = (size_px[0] // config.patch_size, size_px[1] // config.patch_size)
    grid = (patches[0] // merge, patches[1] // merge)
    packed = _pack(tower, patches, grid)
    # The tower reads two equal frames, so the weights of both may be added beforehand.
    kernel, bias = tower.patch_embed.proj.weight.detach().sum(2), tower.patch_embed.proj.bias
    places, norm = _find_places(tower, patches), getattr(tower.merger, "ln_q", None)
    norm = norm or tower.merger.norm

    def embed(pixels: Tensor) -> Tensor:
        found = torch.nn.functional.conv2d(pixels, kernel, bias, stride=config.patch_size)
        return packed.pack(found) + places

    def group(rows: Tensor) -> Tensor:
        return packed.unpack(rows.reshape(-1, merge * merge * width))

    def finish(rows: Tensor) -> Tensor:
        return group(norm(rows))[None]

    return VisionParts(
        model=tower,
        embed=embed,
        blocks=tuple(tower.blocks),
        prefix_tokens=0,
        grid=grid,
        image_px=size_px,
        width=width,
        heads=config.num_heads,
        cell=merge,
        feature_width=width * merge**2,
        run=packed.run,
        finish=finish,
        pool=packed.pool,
        deepstack=tuple(getattr(tower, "deepstack_visual_indexes", ())),
        group=group,
    )


def _pack(tower: Any, patches: Grid, grid: Grid) -> Packed:
    import torch

    merge, whole = tower.spatial_merge_size, getattr(tower, "fullatt_block_indexes", None)
    tokens = torch.arange(grid[0] * grid[1]).reshape(grid)
    windows = 1
    if whole is not None:
        side = tower.window_size // tower.patch_size // merge
        cut = tokens.reshape(grid[0] // side, side, grid[1] // side, side)
        tokens, windows = cut.transpose(1, 2), (grid[0] // side) * (grid[1] // side)
    tokens = tokens.flatten()
    line, column = torch.meshgrid(*map(torch.arange, patches), indexing="ij")
    places = torch.stack([line, column]).reshape(2, grid[0], merge, grid[1], merge)
    places = places.permute(1, 3, 2, 4, 0).reshape(-1, merge * merge, 2)
    cos, sin = tower.rotary_pos_emb(torch.zeros(1), places[tokens].reshape(-1, 2))
    by_block = {
        id(block): 1 if whole is None or number in whole else windows
        for number, block in enumerate(tower.blocks)
    }
    return Packed(merge, grid, tokens, by_block, cos, sin)


def _find_axes(decoder: Any) -> tuple[int, ...]:
    """Of each pair of rotary channels, which axis turns it: 0 time, 1 line, 2 column."""
    import torch

    turned = []
    for axis in range(3):
        place = torch.zeros(3, 1, 1, dtype=torch.int64)
        place[axis] = 1
        _, sin = decoder.rotary_emb(torch.zeros(1, 1, 1), place)
        turned.append(sin[0, 0] != 0)
    found = torch.stack(turned).int().argmax(0)
    return tuple(found[: len(found) // 2].tolist())


def _process(size_px: Grid, config: Any, processor: Any, picture: Any) -> Tensor:
    """The processor's patches put together again as pixels [1, 3, h, w]."""
    height, width = size_px
    stretched = stretch(processor, picture, size_px)
    size = {"shortest_edge": height * width, "longest_edge": height * width}
    patches = processor(images=stretched, size=size, return_tensors="pt")["pixel_values"]
    patch, merge = config.patch_size, config.spatial_merge_size
    lines, columns = height // patch // merge, width // patch // merge
    cut = patches.reshape(lines, columns, merge, merge, 3, -1, patch, patch)[:, :, :, :, :, 0]
    pixels: Tensor = cut.permute(4, 0, 2, 5, 1, 3, 6).reshape(1, 3, height, width)
    return pixels.float()
