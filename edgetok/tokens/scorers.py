"""Scores: one float32 per token, or one per pair."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_NORM = 1e-6  # a zero vector then has cosine 0 with everything (R13)
STEPS = 4096  # per unit, twice as fine as half precision, in which the references compare
FINE_STEPS = 65_536  # for attention, of which most lies far below the highest
SINK_PENALTY = 1e4  # beyond any attention or cosine


def unit_rows(x: Tensor) -> Tensor:
    """Rows scaled to length 1; zero rows stay zero: [N, V] -> [N, V]."""
    return x / (x * x).sum(1, keepdim=True).sqrt().clamp(min=SMALLEST_NORM)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of every row of `a` with every row of `b`: [A, V], [B, V] -> [A, B]."""
    return unit_rows(a) @ unit_rows(b).T


def cls_similarity(x: Tensor, cls_feature: Tensor) -> Tensor:
    """Cosine of each patch with the CLS row: [N, V], [1, V] -> [N]."""
    return (unit_rows(x) * unit_rows(cls_feature)).sum(1)


def on_grid(scores: Tensor, steps: int = STEPS) -> Tensor:
    """Scores rounded to multiples of 1 / steps (4096), for scores of a magnitude near 1.

    Kernels add in different orders, so what is equal by mathematics differs in its last bits,
    and a comparison would fall one way in torch and the other in a runtime. On the grid it is a
    tie again, and small sums and differences of such scores are exact.
    """
    return (scores * steps).round() / steps


def relative(scores: Tensor) -> Tensor:
    """Scores relative to the largest, on a grid of 1 / 65536, to be ranked: [N] -> [N]."""
    return on_grid(scores / scores.abs().max().clamp(min=1e-30), FINE_STEPS)


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of every row of `a` with every row of `b`, on the grid: [A, V], [B, V] -> [A, B]."""
    return on_grid(cosine(a, b))


def band_scores(scores: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mean score of each row of the grid, on a grid relative to the best: [N] -> [rows]."""
    means = scores.reshape(grid).mean(1)
    return on_grid(means / means.abs().max().clamp(min=1e-30))


def energy(similar: Tensor, margin: float) -> Tensor:
    """Mean of ELU(cosine - margin) over all rows, high in large groups: [n, n] -> [n] (PiToMe)."""
    above = similar - margin
    return torch.where(above > 0, above, above.clamp(max=0).exp() - 1).mean(1)


def without_sinks(scores: Tensor, x: Tensor, factor: float = 4.0) -> Tensor:
    """Scores with attention sinks put behind all others: [N], [N, V] -> [N].

    Sinks of a vision tower are rows of unusual length, which draw attention whatever they show:
    those longer than `factor` times the mean (after VisAttnSink, which knows sinks of language
    models by single dimensions). They are taken only if nothing else is left.
    """
    lengths = (x * x).sum(1).sqrt()
    return torch.where(lengths > factor * lengths.mean(), scores - SINK_PENALTY, scores)
