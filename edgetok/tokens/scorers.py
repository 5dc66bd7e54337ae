"""Scores: one float32 per token, or one per pair."""

from __future__ import annotations

from torch import Tensor

SMALLEST_NORM = 1e-6  # a zero vector then has cosine 0 with everything (R13)


def unit_rows(x: Tensor) -> Tensor:
    """Rows scaled to length 1; zero rows stay zero: [N, V] -> [N, V]."""
    return x / (x * x).sum(1, keepdim=True).sqrt().clamp(min=SMALLEST_NORM)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of every row of `a` with every row of `b`: [A, V], [B, V] -> [A, B]."""
    return unit_rows(a) @ unit_rows(b).T


def cls_similarity(x: Tensor, cls_feature: Tensor) -> Tensor:
    """Cosine of each patch with the CLS row: [N, V], [1, V] -> [N]."""
    return (unit_rows(x) * unit_rows(cls_feature)).sum(1)
