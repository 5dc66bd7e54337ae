"""The score that FlowCut gathers over the blocks of a vision tower, for its graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgetok.export.attention import probe_cls

SMALLEST_SUM = 1e-6


def probe_flow(
    blocks: Sequence[tuple[Tensor, Tensor, float]], values: Sequence[Tensor], prefix_tokens: int
) -> Tensor:
    """Scores of all blocks, each counting half of what the next one does: -> float32 [N].

    Args:
        blocks: per block query and key [1, heads, prefix + N, H] and the scaling.
        values: per block [1, heads, prefix + N, H].
    """
    steps = [_score_block(*b, v, prefix_tokens) for b, v in zip(blocks, values, strict=True)]
    total = steps[0]
    for step in steps[1:]:
        total = 0.5 * total + 0.5 * step
    return total


def _score_block(query: Tensor, key: Tensor, scaling: float, value: Tensor, prefix: int) -> Tensor:
    patches = value[0, :, prefix:]
    strength = patches.mean(0).abs().sum(1)
    if not prefix:
        asking = query[0].mean(1, keepdim=True) * scaling
        return torch.softmax(asking @ key[0].transpose(1, 2), dim=-1)[:, 0].mean(0) * strength
    attended = probe_cls(query, key, scaling)
    attended = attended / attended.sum().clamp(min=SMALLEST_SUM)
    alike = torch.softmax(value[0, :, :1] @ patches.transpose(1, 2), dim=-1)[:, 0].mean(0)
    return (attended + alike) * strength
