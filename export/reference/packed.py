"""A tower whose rows lie group by group (Qwen-VL), as Hugging Face runs it.

Shares no code with the stages: patches are cut as the family's processor does, features are what
its merger reads, and attention is computed from what the last block's projection gives.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgetok import names
from edgetok.families.internals import find_window_order, rotate_vision
from edgetok.families.parts import VisionParts


def look_packed(vision: VisionParts, pixels: Tensor) -> dict[str, Tensor]:
    """pixels [1, 3, h, w] -> features [N, 4 V], mean keys [N, H] and received attention [N]."""
    tower: Any = vision.model
    last, seen = tower.blocks[-1].attn, dict[str, Any]()

    def record_attention(_module: Any, args: Any, kwargs: Any) -> None:
        seen["rows"], seen["turns"] = args[0], kwargs["position_embeddings"]

    first = tower.merger.mlp if hasattr(tower.merger, "mlp") else tower.merger.linear_fc1
    deep: list[Tensor] = []
    hooks = [
        first.register_forward_pre_hook(lambda _m, args: seen.update(groups=args[0])),
        *(
            merger.register_forward_pre_hook(lambda _m, args: deep.append(args[0]))
            for merger in getattr(tower, "deepstack_merger_list", ())
        ),
        last.register_forward_pre_hook(record_attention, with_kwargs=True),
    ]
    lines, columns = (side * vision.cell for side in vision.grid)
    try:
        tower(cut_patches(vision, pixels), grid_thw=torch.tensor([[1, lines, columns]]))
    finally:
        for hook in hooks:
            hook.remove()
    order = _order(vision)
    rows = last.qkv(seen["rows"]).reshape(len(seen["rows"]), 3, vision.heads, -1)
    query, key = rotate_vision(last, rows[:, 0], rows[:, 1], *seen["turns"])
    scores = torch.einsum("qhd,khd->hqk", query, key) * last.scaling
    received = scores.softmax(-1).mean((0, 1))
    wide = [rows.reshape(len(order), -1)[order] for rows in deep]
    return {
        **({names.DEEP_FEATURES: torch.cat(wide, dim=1)} if wide else {}),
        names.FEATURES: seen["groups"][order],
        names.KEYS: _mean_of_groups(key.mean(1), vision.cell, order),
        names.RECEIVED_ATTENTION: _mean_of_groups(received[:, None], vision.cell, order)[:, 0],
    }


def cut_patches(vision: VisionParts, pixels: Tensor) -> Tensor:
    """[1, 3, h, w] -> [n, values], each patch twice, for two frames; groups in raster order."""
    config: Any = vision.model.config
    patch, frames, cut = config.patch_size, config.temporal_patch_size, list[Tensor]()
    for down in range(vision.grid[0]):
        for across in range(vision.grid[1]):
            for y in range(vision.cell):
                for x in range(vision.cell):
                    top, left = (down * vision.cell + y) * patch, (across * vision.cell + x) * patch
                    one = pixels[0, :, top : top + patch, left : left + patch]
                    cut.append(torch.stack([one] * frames, 1).flatten())
    return torch.stack(cut)


def _order(vision: VisionParts) -> Tensor:
    """Where each token of the raster is among the tower's groups."""
    tower: Any = vision.model
    if not hasattr(tower, "fullatt_block_indexes"):
        return torch.arange(vision.full_tokens)
    lines, columns = (side * vision.cell for side in vision.grid)
    order = find_window_order(lines, columns, vision.cell, tower.window_size, tower.patch_size)
    return torch.argsort(order)


def _mean_of_groups(rows: Tensor, cell: int, order: Tensor) -> Tensor:
    groups = [rows[at : at + cell * cell].mean(0) for at in range(0, len(rows), cell * cell)]
    return torch.stack(groups)[order]
