"""What a family tells the exporter: the modules of a model and the numbers that go with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgetok.bundle.processor import ImagePlan, PromptPlan

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class VisionParts:
    """A vision transformer up to the layer that the projector reads.

    Args:
        embed: pixels [1, 3, h, w] -> hidden rows [1, prefix + N, V], position embedding added.
        blocks: the blocks to run, in order; the last one is the feature layer. Methods inside the
            tower take them apart: `layer_norm1`, `self_attn`, `layer_norm2` and `mlp`, in this
            order, as Hugging Face's CLIP and SigLIP name them.
        next_block: the block behind the feature layer, of which some probes read queries and
            keys; None if there is none, and they read those of the feature layer.
        prefix_tokens: rows before the patches (1 with a CLS token, 0 without).
        grid: rows and columns of the patches: all N, or those of each part.
        tiles: rows and columns of the tiles into which pictures are cut, a thumbnail in front of
            them; None where a picture is looked at in one part.
    """

    model: nn.Module
    embed: Callable[[Tensor], Tensor]
    blocks: tuple[nn.Module, ...]
    prefix_tokens: int
    grid: tuple[int, int]
    image_px: tuple[int, int]
    width: int
    heads: int
    next_block: nn.Module | None = None
    tiles: tuple[int, int] | None = None

    @property
    def full_tokens(self) -> int:
        n_parts = 1 if self.tiles is None else 1 + self.tiles[0] * self.tiles[1]
        return self.grid[0] * self.grid[1] * n_parts

    @property
    def late_blocks(self) -> range:
        """The last third of the blocks: 16 to 22 of the 23 that LLaVA runs of CLIP-L."""
        depth = len(self.blocks)
        return range(min(-(-2 * depth // 3), depth - 1), depth)

    @property
    def object_block(self) -> int:
        """The block at three eighths of the depth: 8 of the 23, the paper's ninth layer."""
        return max(0, -(-3 * len(self.blocks) // 8) - 1)


@dataclass(frozen=True, slots=True)
class TextParts:
    """A decoder whose layers call Hugging Face's attention interface.

    Args:
        rotary_kinds: for each layer which of several rotary embeddings it has (Gemma 3); empty
            where all layers share one.
    """

    model: nn.Module
    layers: tuple[nn.Module, ...]
    norm: nn.Module
    embed: nn.Embedding
    head: nn.Module
    rotary: nn.Module
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    max_positions: int
    stop_ids: tuple[int, ...]
    pad_id: int
    rotary_kinds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Parts:
    """A model taken apart. `model` stays whole: graphs are proved against it."""

    family: str
    path: Path
    model: nn.Module
    vision: VisionParts
    projector: nn.Module
    text: TextParts
    image: ImagePlan
    prompt: PromptPlan
