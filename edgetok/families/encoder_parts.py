"""What a family of encoders tells the exporter: a tower, a head, and what the head is for.

An encoder has no language model: its head makes logits, an embedding or an image of what the tower
leaves. Blocks are seen under the names that `VisionParts` asks for, so that methods inside a tower
know one spelling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgetok.bundle.encoders import Scores, Similarity, Task
from edgetok.bundle.golden_inputs import GoldenPrompt
from edgetok.bundle.processor import ImagePlan
from edgetok.errors import InputError
from edgetok.families.encoder_images import Processing
from edgetok.families.parts import VisionParts


@dataclass(frozen=True, eq=False)
class Encoded:
    """What a head may read of a tower.

    Args:
        taps: rows [prefix + n, V] after the blocks that the head asked for, prefix rows first.
        sizes: [prefix + n] of the last tap: how many patches each row stands for.
        bias: [prefix + n], the logarithm of the sizes where attention knows them, else None.
        restore: rows [prefix + n, V] -> [prefix + N, V], one per patch; rows that are not reduced
            stay as they are.
    """

    taps: tuple[Tensor, ...]
    sizes: Tensor
    bias: Tensor | None
    restore: Callable[[Tensor], Tensor]

    @property
    def rows(self) -> Tensor:
        """[prefix + n, V] after the last block."""
        return self.taps[-1]


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """The text side of an image-text model.

    Args:
        module: ids [1, T] -> the embedding [1, E] of a text, of length 1.
        whole: the same by Hugging Face's own forward pass.
        length: T, to which every text is padded.
        tokenizer: a `tokenizer.json` that pads by itself, as Hugging Face does.
        similarity: how two embeddings become a score.
        texts: with the ids that transformers makes of them, padded.
    """

    module: nn.Module
    whole: Callable[[Tensor], Tensor]
    length: int
    tokenizer: str
    similarity: Similarity
    texts: tuple[GoldenPrompt, ...]


@dataclass(frozen=True, slots=True)
class EncoderParts:
    """An encoder taken apart. `model` stays whole: graphs are compared with it.

    Args:
        vision: the tower; of its `finish` and `cell` nothing is used.
        head: what the tower leaves -> the output [1, ...].
        taps: numbers of the blocks whose rows the head reads, ascending; the last block at least.
        needs_patches: whether the head wants a row per patch, so that only methods that give rows
            back can serve it.
        movable: whether blocks take rows without asking where in the image they were.
        whole: pixels [1, 3, h, w] -> the output, by Hugging Face's own forward pass.
        process: Hugging Face's image processor.
        labels: of the classes, in order; empty where there are none.
        scores: what the logits of a classifier become.
    """

    family: str
    path: Path
    model: nn.Module
    vision: VisionParts
    head: nn.Module
    task: Task
    output: str
    taps: tuple[int, ...]
    whole: Callable[[Tensor], Tensor]
    image: ImagePlan
    process: Processing
    labels: tuple[str, ...] = ()
    scores: Scores = "softmax"
    text: TextEncoder | None = None
    needs_patches: bool = False
    movable: bool = True


class BlockView(nn.Module):
    """One block under CLIP's names: two norms, attention and MLP, residual sums left out."""

    def __init__(
        self, norm1: nn.Module, attention: nn.Module, norm2: nn.Module, mlp: nn.Module
    ) -> None:
        super().__init__()
        self.layer_norm1, self.self_attn = norm1, attention
        self.layer_norm2, self.mlp = norm2, mlp


class AttentionView(nn.Module):
    """An attention under CLIP's names, with whatever scales its output after `out_proj`.

    Args:
        attention: rows [1, n, V] and `attention_mask` -> rows and maps.
        given: more keywords for it, such as positions.
    """

    def __init__(
        self, attention: Any, scale: nn.Module | None = None, given: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.attention, self._given = attention, given or {}
        self.scale = nn.Identity() if scale is None else scale
        self.q_proj, self.k_proj = attention.q_proj, attention.k_proj
        self.v_proj = attention.v_proj
        last = attention.o_proj if hasattr(attention, "o_proj") else attention.out_proj
        self.out_proj = nn.Sequential(last, self.scale)

    def forward(self, rows: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        out, maps = self.attention(rows, attention_mask=attention_mask, **self._given)
        return self.scale(out), maps


def view_dino_block(block: Any, **given: Any) -> BlockView:
    """A block of DINOv2, DINOv3 or EoMT: pre-norms, and a scale after attention and MLP."""
    attention = AttentionView(block.attention, block.layer_scale1, given)
    mlp = nn.Sequential(block.mlp, block.layer_scale2)
    return BlockView(block.norm1, attention, block.norm2, mlp)


def embed_patches(
    embeddings: Callable[[Tensor], Tensor], patches: Any, size_px: tuple[int, int]
) -> Callable[[Tensor], Tensor]:
    """Pixels -> rows, with everything but the patches' convolution computed here and now.

    Rows are linear in the pixels: those of a black image hold positions, biases and prefix rows,
    interpolated to this size by Hugging Face's own code.

    Args:
        embeddings: pixels [1, 3, h, w] -> rows [1, prefix + n, V].
        patches: the convolution inside it.

    Raises:
        InputError: if the model does not take images of this size.
    """
    try:
        with torch.no_grad():
            constant = embeddings(torch.zeros(1, 3, *size_px)).detach()
    except ValueError as error:
        raise InputError(
            f"the image processor yields {size_px[0]} x {size_px[1]} pixels, and the model does "
            f"not take them: {str(error).splitlines()[0]}"
        ) from error
    side = patches.kernel_size[0] * patches.kernel_size[1]
    count = size_px[0] * size_px[1] // side
    prefix = constant.shape[1] - count

    def embed(pixels: Tensor) -> Tensor:
        rows = nn.functional.conv2d(pixels, patches.weight, stride=patches.stride)
        rows = rows.flatten(2).transpose(1, 2)
        if prefix:
            rows = torch.cat([torch.zeros(1, prefix, rows.shape[2]), rows], dim=1)
        return rows + constant

    return embed


def grid_of(size_px: tuple[int, int], patch_px: Any) -> tuple[int, int]:
    """Rows and columns of patches.

    Raises:
        InputError: if a side is no multiple of the patch.
    """
    down, across = patch_px if isinstance(patch_px, list | tuple) else (patch_px, patch_px)
    if size_px[0] % down or size_px[1] % across:
        raise InputError(
            f"the image processor yields {size_px[0]} x {size_px[1]} pixels, which patches of "
            f"{down} x {across} do not fill; change its size to a multiple"
        )
    return size_px[0] // down, size_px[1] // across


def find_tower(
    model: nn.Module,
    embed: Callable[[Tensor], Tensor],
    blocks: tuple[nn.Module, ...],
    prefix: int,
    grid: tuple[int, int],
    size_px: tuple[int, int],
) -> VisionParts:
    """The tower of an encoder; `model` is what holds the configuration that attention reads."""
    config: Any = model.config
    return VisionParts(
        model=model,
        embed=embed,
        blocks=blocks,
        prefix_tokens=prefix,
        grid=grid,
        image_px=size_px,
        width=config.hidden_size,
        heads=config.num_attention_heads,
    )


def find_scores(config: Any) -> Scores:
    """What Hugging Face's image-classification pipeline makes of logits."""
    if config.problem_type == "regression":
        return "none"
    several = config.problem_type == "multi_label_classification"
    return "sigmoid" if several or config.num_labels == 1 else "softmax"


def list_labels(config: Any) -> tuple[str, ...]:
    """The names of the classes, in order, as the configuration has them."""
    named = {int(number): str(name) for number, name in (config.id2label or {}).items()}
    return tuple(named.get(number, f"LABEL_{number}") for number in range(config.num_labels))
