"""Signals: scalars, cheap inside the tower's graph, that say how hard an image is."""

from __future__ import annotations

import torch
from torch import Tensor

from edgetok.tokens.scorers import cls_similarity


def elbow(scores: Tensor) -> Tensor:
    """How many tokens lie up to the elbow of the sorted curve: [N] -> [1] float32 in 1..N.

    The elbow is the point farthest from the chord between the first and the last of the scores,
    sorted in descending order; the first such point if there are several.
    """
    n = scores.shape[0]
    curve = scores.sort(descending=True).values
    position = torch.arange(n, dtype=torch.float32, device=scores.device)
    fall = curve[0] - curve
    distance = ((n - 1) * fall - position * fall[n - 1]).abs()
    first = torch.where(distance == distance.max(), position, float(n)).min()
    return (first + 1).reshape(1)


def elbow_tokens(x: Tensor, cls_feature: Tensor) -> Tensor:
    """Elbow of the similarity of patches to the CLS row: [N, V], [1, V] -> [1] float32.

    After Sparsity Meets Similarity (arXiv 2409.01162), which keeps what lies before the curve's
    inflection; the paper does not define that point, the chord does here.
    """
    return elbow(cls_similarity(x, cls_feature))


def effective_count(attention: Tensor) -> Tensor:
    """exp of the entropy of an attention row [N]: [1] float32, 1 for one token, N for uniform."""
    share = attention / attention.sum().clamp(min=1e-6)
    return (-(share * share.clamp(min=1e-12).log()).sum()).exp().reshape(1)
