"""What methods read of a tower's attention beside the fused operator: a few rows, as [N]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgetok.export.attention import merge_heads

GLOBAL_FACTOR = 34.8  # VFlowOpt's released search for a quarter of the tokens
SMALLEST_SUM = 1e-12  # a CLS row of long values leaves patches very little


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
    alike = torch.softmax(value[0, :, :1] @ value[0].transpose(1, 2), dim=-1)
    attended, alike = probe_cls(query, key, scaling), alike[:, 0, prefix:].mean(0)
    return (_share(attended) + _share(alike)) * strength


def _share(scores: Tensor) -> Tensor:
    return scores / scores.sum().clamp(min=SMALLEST_SUM)


def probe_cls(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """Attention of the CLS row to the patches, mean over heads, beside fused attention.

    query, key [1, heads, 1 + N, H] -> float32 [N].
    """
    scores = (query[0, :, :1] * scaling) @ key[0].transpose(1, 2)  # [heads, 1, 1 + N]
    return torch.softmax(scores.float(), dim=-1)[:, 0, 1:].mean(0)


def probe_cls_logits(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """`probe_cls` before the softmax, which may be negative."""
    scores = (query[0, :, :1] * scaling) @ key[0].transpose(1, 2)
    return scores[:, 0, 1:].mean(0)


def probe_received(query: Tensor, key: Tensor, scaling: float, prefix_tokens: int) -> Tensor:
    """Mean attention that each patch receives from all rows, for towers without a CLS token.

    query, key [1, heads, prefix + N, H] -> float32 [N].
    """
    scores = (query[0] * scaling) @ key[0].transpose(1, 2)
    return torch.softmax(scores.float(), dim=-1).mean((0, 1))[prefix_tokens:]


def probe_wide(query: Tensor, key: Tensor) -> Tensor:
    """Attention of the CLS row as one head over the full width, which PruMerge reads.

    query, key [1, heads, 1 + N, H] -> float32 [N].
    """
    rows, width = merge_heads(key)[0], query.shape[1] * query.shape[3]
    scores = (merge_heads(query[:, :, :1])[0] * width**-0.5) @ rows.T  # [1, 1 + N]
    return torch.softmax(scores.float(), dim=-1)[0, 1:]


def probe_global(query: Tensor, key: Tensor, scaling: float, prefix_tokens: int) -> Tensor:
    """Mean attention from the patches that receive `GLOBAL_FACTOR` times the mean or more.

    All patches ask if none is above it. query, key [1, heads, prefix + N, H] -> float32 [N].
    """
    scores = (query[0] * scaling) @ key[0].transpose(1, 2)
    mean = torch.softmax(scores.float(), dim=-1).mean(0)[prefix_tokens:, prefix_tokens:]
    received = mean.mean(0)
    asks = (received >= GLOBAL_FACTOR * received.mean()).float()
    asks = torch.where(asks.max() > 0, asks, 1.0)
    return (asks @ mean) / asks.sum()


def mean_keys(key: Tensor, prefix_tokens: int) -> Tensor:
    """Mean over heads of the patches' keys: key [1, heads, prefix + N, H] -> [N, H]."""
    return key[0].mean(0)[prefix_tokens:]
