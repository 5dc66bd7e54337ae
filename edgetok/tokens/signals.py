"""Signals: scalars, cheap inside the tower's graph, that say how hard an image is."""

from __future__ import annotations

import torch
from torch import Tensor

from edgetok.tokens.scorers import cls_similarity

_THUMBNAIL = 4  # pixels a side that one pixel of the small grey picture stands for


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


def participation_rank(x: Tensor) -> Tensor:
    """In how many directions features [N, V] vary: (tr C)^2 / tr(C^2) -> [1] float32, from 1 on.

    C is their covariance, of which the smaller of two forms is multiplied out: 2 min(N, V) N V
    operations, a five-hundredth of a large tower. Stands in for a rank that needs no singular
    values. Features that are all alike vary in none: 1.
    """
    centred = x - x.mean(0, keepdim=True)
    short = centred if x.shape[0] <= x.shape[1] else centred.T
    gram = short @ short.T
    trace = (centred * centred).sum()
    return ((trace * trace + 1e-6) / ((gram * gram).sum() + 1e-6)).reshape(1)


def edge_density(pixels: Tensor) -> Tensor:
    """Mean step between neighbours of a grey picture at a quarter of the size: -> [1] float32.

    Costs a pass over the pixels, less than a hundredth of the patch embedding.

    Args:
        pixels: [P, 3, h, w], normalised; of several parts the mean.
    """
    grey = torch.nn.functional.avg_pool2d(pixels.mean(1, keepdim=True), _THUMBNAIL)
    down = (grey[:, :, 1:] - grey[:, :, :-1]).abs().mean()
    across = (grey[:, :, :, 1:] - grey[:, :, :, :-1]).abs().mean()
    return (down + across).reshape(1)
