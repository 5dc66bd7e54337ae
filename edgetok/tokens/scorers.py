"""Scores: one float32 per token, or one per pair."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_NORM = 1e-6  # a zero vector then has cosine 0 with everything (R13)
STEPS = 4096  # per unit, twice as fine as half precision, in which the references compare
FINE_STEPS = 65_536  # for small scores, attention most of all, and where an exponential follows
SMALLEST_SPREAD = 1e-4  # of relevances that count as different
SINK_PENALTY = 1e4  # beyond any attention or cosine


def unit_rows(x: Tensor) -> Tensor:
    """Rows scaled to length 1; zero rows stay zero: [N, V] -> [N, V]."""
    return x / (x * x).sum(1, keepdim=True).sqrt().clamp(min=SMALLEST_NORM)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of every row of `a` with every row of `b`: [A, V], [B, V] -> [A, B]."""
    return unit_rows(a) @ unit_rows(b).T


def cls_similarity(x: Tensor, cls_feature: Tensor) -> Tensor:
    """Cosine of each patch with the CLS row, or any one row: [N, V], [1, V] -> [N]."""
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


def repeatable_similarity(x: Tensor) -> Tensor:
    """`similarity` of all pairs, the same to the last bit in every runtime: [N, V] -> [N, N].

    For selectors of dozens of rounds, where one cosine that rounds the other way changes all that
    follow. Kernels may add whole numbers whose sums stay below 2^24 in any order: rows are taken
    relative to their largest entry, in two parts of 8 bits each at a width of 256, which holds
    cosines to a millionth and costs three products.
    """
    bits = (24 - (x.shape[1] - 1).bit_length()) // 2
    finer = 2.0 ** (bits + 1)
    scaled = x / x.abs().amax(1, keepdim=True).clamp(min=1e-30) * 2.0**bits
    high = scaled.round()
    low = ((scaled - high) * finer).round()
    mixed = high @ low.T
    both = (high @ high.T) * finer + (mixed + mixed.T) + (low @ low.T) / finer
    squares = (high * high).sum(1) * finer + (high * low).sum(1) * 2 + (low * low).sum(1) / finer
    lengths = _root(squares, 2.0 ** (3 * bits // 2 - 10))  # a thousandth of the shortest
    return on_grid(both / (lengths.unsqueeze(1) * lengths))


def _root(squares: Tensor, unit: float) -> Tensor:
    """Square roots by divisions alone, from a coarse start: the last bit of `sqrt` is anyone's."""
    root = (squares.sqrt() / unit).round().clamp(min=1.0) * unit
    for _ in range(2):
        root = (root + squares / root) * 0.5
    return root


def shares(mask: Tensor) -> Tensor:
    """What each row in the mask counts in their mean, 0 if there is none: [T] -> [T]."""
    return mask / mask.sum().clamp(min=1.0)


def text_relevance(x: Tensor, text: Tensor, mask: Tensor) -> Tensor:
    """Mean cosine of each token with the text rows in `mask`: [N, D], [T, D], [T] -> [N].

    0 where no row is in the mask. Rows outside it may hold anything finite.
    """
    mean = (unit_rows(text) * shares(mask).unsqueeze(1)).sum(0)
    # Summed row by row, not by a matrix product, so that equal tokens tie: see `nearest_anchor`.
    return (unit_rows(x) * mean).sum(1)


def attended(text: Tensor, x: Tensor, per_unit: float) -> Tensor:
    """How each text row divides its attention among tokens: [T, D], [N, D] -> [T, N].

    A softmax over the tokens of cosine times `per_unit`, the cosines on a fine grid.
    """
    return torch.softmax(on_grid(cosine(text, x), FINE_STEPS) * per_unit, dim=1)


def on_relative_grid(scores: Tensor) -> Tensor:
    """Scores divided by the largest magnitude, on a fine grid: [N] -> [N]."""
    return on_grid(scores / scores.abs().max().clamp(min=1e-30), FINE_STEPS)


def rescaled(scores: Tensor) -> Tensor:
    """Scores moved and stretched to lie from 0 to 1, all 1 if they hardly differ: [N] -> [N]."""
    lowest = scores.min()
    spread = scores.max() - lowest
    between = (scores - lowest) / spread.clamp(min=SMALLEST_SPREAD)
    return torch.where(spread < SMALLEST_SPREAD, 1.0, between)


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
