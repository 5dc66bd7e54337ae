"""What a family tells the exporter: the modules of a model and the numbers that go with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal

from edgetok.bundle.manifest import Generation
from edgetok.bundle.processor import ImagePlan
from edgetok.families.prompt_check import PromptSide
from edgetok.scratch import Scratch

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn


Grid = tuple[int, int]  # rows and columns
Bidirectional = Literal["nothing", "image", "prompt"]  # which rows of a prompt see later ones
UNROTATED = "unturned"  # the rotary kind of a layer whose rows have no positions


@dataclass(frozen=True)
class Framing:
    """How a prompt's images are shown to the tower, chosen at export.

    Args:
        tiles: rows and columns into which images are cut; None for images in one part.
        size_px: height and width of all images, for families that take any size; None for the
            family's own.
        images: how many a prompt has.
    """

    tiles: Grid | None = None
    size_px: Grid | None = None
    images: int = 1


def run_block(block: Any, rows: Tensor) -> Tensor:
    """One block over rows [P, n, V], as CLIP and SigLIP want to be called."""
    out: Tensor = block(rows, attention_mask=None)
    return out


def keep_rows(rows: Tensor) -> Tensor:
    """The rows as they are: of towers whose blocks make what the projector reads."""
    return rows


def merge_cells(rows: Tensor, grid: Grid, cell: int) -> Tensor:
    """Pixel shuffle: patches [P, n, V] in raster order -> tokens [P, N, V * cell ** 2].

    `grid` is that of the tokens. A token holds the patches of its cell line by line.
    """
    parts, _, width = rows.shape
    down, across = grid
    cells = rows.reshape(parts, down, cell, across, cell, width).transpose(2, 3)
    return cells.reshape(parts, down * across, cell * cell * width)


def attention_of(block: Any) -> Any:
    """The attention of a tower's block, with its `q_proj`, `k_proj` and `v_proj`."""
    return block.self_attn if hasattr(block, "self_attn") else block.attention


def process(processor: Any, picture: Any) -> Tensor:
    """Pixels [1, 3, h, w] of an image, as most image processors have them."""
    pixels: Tensor = processor(images=picture, return_tensors="pt")["pixel_values"]
    return pixels.float()


def stretch(processor: Any, picture: Any, size_px: Grid) -> Any:
    """A Pillow image of any kind as RGB of this height and width, by the processor's filter.

    For families whose processor would keep the proportions. It is converted before it is resized,
    as processors do.
    """
    import numpy as np
    from PIL import Image
    from transformers.image_transforms import convert_to_rgb

    takes = signature(convert_to_rgb).parameters  # the older releases know no other return
    told = {"return_numpy": True} if "return_numpy" in takes else {}
    converted = Image.fromarray(np.asarray(convert_to_rgb(picture, **told)))
    return converted.resize((size_px[1], size_px[0]), processor.resample)


def open_processor(path: Path) -> Any:
    """The image processor of a model directory, with Pillow's resampling where it has that."""
    from transformers import AutoImageProcessor

    return AutoImageProcessor.from_pretrained(str(path), local_files_only=True, backend="pil")


def tell_pixels(pixels: Tensor) -> dict[str, Tensor]:
    """What the `forward` of most towers takes of pixels [1, 3, h, w]."""
    return {"pixel_values": pixels}


@dataclass(frozen=True, slots=True)
class VisionParts:
    """A vision transformer up to the layer that the projector reads.

    A visual token is a patch, or a square cell of patches where the family merges some before the
    language model sees them: budgets count cells then, and probes are means over their patches.

    Args:
        embed: pixels [P, 3, h, w] -> hidden rows [P, prefix + n, V], position embedding added.
        blocks: the blocks to run, in order; the last one is the feature layer. Methods inside the
            tower take them apart: `layer_norm1`, `self_attn`, `layer_norm2` and `mlp`, in this
            order, as Hugging Face's CLIP and SigLIP name them. None where `embed` runs the whole
            tower, whose attention nobody sees.
        next_block: the block after the feature layer, of which some probes read queries and
            keys; None if there is none, and they read those of the feature layer.
        prefix_tokens: rows before the patches (1 with a CLS token, 0 without).
        grid: rows and columns of visual tokens: all N, or those of each part.
        tiles: rows and columns of the tiles into which images are cut, a thumbnail before
            them; None where an image is looked at in one part.
        cell: patches along a side of a visual token.
        feature_width: of what the projector reads, if it is not V.
        run: a block over rows.
        finish: rows of the feature layer [P, n, V], the prefix cut off -> features
            [P, N / P, feature width], raster order in each part.
        pool: what belongs to rows [n, ...] -> means over cells [N, ...], where rows do not lie in
            raster order; None where they do.
        deepstack: numbers of earlier blocks whose rows go to the language model too.
        group: rows of those blocks [1, n, V] -> [N, what a deep projector reads].
        tell: pixels [1, 3, h, w] -> what `forward` of the whole tower takes, by name.
        stems: modules beside the blocks that hold matrices of the tower's graph.
        pictures: how many a prompt has; the tower looks at one after another.
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
    cell: int = 1
    feature_width: int | None = None
    run: Callable[[Any, Tensor], Tensor] = run_block
    finish: Callable[[Tensor], Tensor] = keep_rows
    pool: Callable[[Tensor], Tensor] | None = None
    deepstack: tuple[int, ...] = ()
    group: Callable[[Tensor], Tensor] = keep_rows
    tell: Callable[[Tensor], dict[str, Tensor]] = tell_pixels
    stems: tuple[nn.Module, ...] = ()
    pictures: int = 1

    @property
    def n_parts(self) -> int:
        """Parts of an image that the tower looks at: 1, or the thumbnail and the tiles."""
        return 1 if self.tiles is None else 1 + self.tiles[0] * self.tiles[1]

    @property
    def picture_tokens(self) -> int:
        """Visual tokens of one image."""
        return self.grid[0] * self.grid[1] * self.n_parts

    @property
    def full_tokens(self) -> int:
        """N, the visual tokens that a method chooses from."""
        return self.picture_tokens * self.pictures

    @property
    def is_plain(self) -> bool:
        """Whether a token is a patch of one image, and blocks are what the projector reads."""
        is_one = self.tiles is None and self.pictures == 1
        plain = self.cell == 1 and is_one and self.finish is keep_rows
        return plain and bool(self.blocks)

    @property
    def depth(self) -> int:
        """Blocks of the whole tower, those behind the feature layer too."""
        config: Any = getattr(self.model, "config", None)
        return max(len(self.blocks), getattr(config, "num_hidden_layers", 0))

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
        rotary_kinds: for each layer which of several rotary embeddings it has (Gemma 3), or
            `UNTURNED` (SmolLM3); empty where all layers share one.
        rotary_dim: channels of a head that are turned, from the first on.
        bidirectional: which rows of a prompt see later ones of their kind: those of the image
            (Gemma 3), or all (PaliGemma).
        mrope_axes: of each pair of rotary channels the axis that turns it, time, line or column of
            a token in the image (M-RoPE, Qwen-VL); empty where positions are numbers in a row.
        convolutions: numbers of the layers that have a short convolution in place of attention
            (LFM2), each with the J - 1 rows before a row as its memory.
        kernel: J, the rows that such a convolution reads.
        generation: what the checkpoint asks of generation; None where that is nothing.
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
    rotary_dim: int
    rotary_kinds: tuple[str, ...] = ()
    bidirectional: Bidirectional = "nothing"
    mrope_axes: tuple[int, ...] = ()
    convolutions: tuple[int, ...] = ()
    kernel: int = 0
    generation: Generation | None = None

    @property
    def attending(self) -> tuple[Any, ...]:
        """The layers that have a KV cache, in order: all but convolutions."""
        return tuple(b for n, b in enumerate(self.layers) if n not in self.convolutions)

    @property
    def is_tied(self) -> bool:
        """Whether the embedding is the head's matrix as well."""
        return getattr(self.head, "weight", None) is self.embed.weight


@dataclass(frozen=True, slots=True)
class Layout:
    """The rows that the language model reads where nothing is taken away.

    Args:
        order: of each row, which visual token it is, or N and up for a separator.
        separators: [S, D], what stands between tokens, such as the ends of lines.
    """

    order: tuple[int, ...]
    separators: Tensor


@dataclass(frozen=True, slots=True)
class Parts:
    """A model taken apart. `model` stays whole: graphs are compared with it.

    Args:
        layout: what the full budget reads; None where it is just the N tokens. Smaller budgets
            have no separators.
        process: the family's own image processor and a Pillow image -> pixels [P, 3, h, w], the
            thumbnail first: what the image plan is held against.
        fixed: settings of the image processor that `process` gives it, where it has others by
            itself; `size` where the image is stretched before.
        open_processor: the model directory -> the image processor that `process` is given.
        deepstack_projectors: for each of `vision.deepstack`, from its groups to what is added to
            the rows of the image after one of the decoder's first layers (DeepStack).
        scratch: where weights lie that were converted or rounded.
    """

    family: str
    path: Path
    model: nn.Module
    vision: VisionParts
    projector: nn.Module
    text: TextParts
    image: ImagePlan
    prompt: PromptSide
    layout: Layout | None = None
    process: Callable[[Any, Any], Tensor] = process
    fixed: Mapping[str, Any] = field(default_factory=dict)
    open_processor: Callable[[Path], Any] = open_processor
    deepstack_projectors: tuple[nn.Module, ...] = ()
    scratch: Scratch = field(default_factory=Scratch)

    def shift(self, budget: int) -> int:
        """How far the rotary position of a row after the image is from its number."""
        return max(self.vision.grid) - budget if self.text.mrope_axes else 0

    @property
    def full_tokens(self) -> int:
        """Rows of the full budget: N, and the separators between them."""
        return self.vision.full_tokens if self.layout is None else len(self.layout.order)
