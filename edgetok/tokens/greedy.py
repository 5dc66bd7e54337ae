"""Greedy choice: one token after the other, in as many equal rounds as tokens are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from edgetok.tokens.pictures import share_evenly
from edgetok.tokens.plan import one_hot
from edgetok.tokens.selectors import (
    BIG,
    exclude,
    forced_topk,
    mask_of,
    order_on_grid,
    raster_indices,
    topk_mask,
)

GRAINS = 2.0**17  # per unit; float32 leaves residuals of a few millionths where none should be

Tensors = tuple[Tensor, ...]
# What stays, what a choice changed, and the token taken [1] -> the state then, and the next [1].
Round = Callable[[Tensors, Tensors, Tensor], tuple[Tensors, Tensor]]
# The first token [1], what stays, the state before it, a round, k -> tokens [k] as taken.
Repeat = Callable[[Tensor, Tensors, Tensors, Round, int], Tensor]


def take_one_by_one(
    first: Tensor,
    known: Tensors,
    state: Tensors,
    score: Callable[[Tensors, Tensors], Tensor],
    update: Callable[[Tensors, Tensors, Tensor], Tensors],
    k: int,
) -> Tensor:
    """Take `first` [1], then k - 1 times what scores best: -> [k] int64, in the order taken.

    `score` and `update` may read their arguments and constants only, so that one round can be
    traced by itself and repeated (`repeating`).

    Args:
        known: what stays the same.
        state: what is known before the first choice.
        score: known, state -> [1, N]; far below all others where a token was taken.
        update: known, state and the token taken [1] -> state.
    """

    def take(known: Tensors, state: Tensors, pick: Tensor) -> tuple[Tensors, Tensor]:
        state = update(known, state, pick)
        return state, score(known, state).argmax(1)

    return _repeats[-1](first, known, state, take, k)


def in_turn(first: Tensor, known: Tensors, state: Tensors, take: Round, k: int) -> Tensor:
    """Rounds one after the other, as PyTorch runs them."""
    taken = [first]
    for _ in range(k - 1):
        state, pick = take(known, state, taken[-1])
        taken.append(pick)
    return torch.cat(taken)


_repeats: list[Repeat] = [in_turn]


@contextmanager
def repeating(repeat: Repeat) -> Iterator[None]:
    """Have rounds repeated by `repeat` for a time: tracing every one of 192 takes long."""
    _repeats.append(repeat)
    try:
        yield
    finally:
        _repeats.pop()


def farthest(similar: Tensor, k: int) -> Tensor:
    """Tokens far from each other, by max-min distance: [N, N] -> [k] int64 in raster order.

    The first one is farthest from its nearest neighbour.
    """
    alone = _but_self(-similar, -BIG)  # the negative similarity orders as the distance does
    first = _but_self(similar, -BIG).amax(1).unsqueeze(0).argmin(1)

    def update(known: Tensors, nearest: Tensors, pick: Tensor) -> Tensors:
        return (torch.minimum(nearest[0], known[0].index_select(0, pick)),)

    n = similar.shape[0]
    taken = take_one_by_one(first, (alone,), (torch.full((1, n), BIG),), _only, update, k)
    return raster_indices(mask_of(taken, n), k)


def max_sum(similar: Tensor, first: Tensor, k: int) -> Tensor:
    """From `first` [1], always the token least similar to all taken: [N, N] -> [k] int64.

    In raster order.
    """
    alone = _but_self(-similar, -BIG)

    def update(known: Tensors, total: Tensors, pick: Tensor) -> Tensors:
        return (total[0] + known[0].index_select(0, pick),)

    n = similar.shape[0]
    taken = take_one_by_one(first, (alone,), (torch.zeros(1, n),), _only, update, k)
    return raster_indices(mask_of(taken, n), k)


def _only(_known: Tensors, state: Tensors) -> Tensor:
    return state[0]


def coverage(gains: Tensor, bonus: Tensor, k: int, alike: float = 0.0) -> Tensor:
    """Tokens whose best gain per row adds up to most: [M, N], [N] -> [k] int64, raster order.

    Facility location: row m is served by the token taken that has the highest `gains[m]`, 0 or
    more; `bonus` is added for each token by itself. Gains that differ by less than `alike` times
    the first one are equal; 0 is for gains on a grid, whose sums are exact.
    """
    n = gains.shape[1]

    def gain(gains: Tensor, state: Tensors) -> Tensor:
        served, own = state
        return (gains - served).clamp(min=0).sum(0, keepdim=True) + own

    def score(known: Tensors, state: Tensors) -> Tensor:
        gains, margin = known
        found = gain(gains, state)
        return (found >= found.amax(1, keepdim=True) - margin).float() if alike else found

    def update(known: Tensors, state: Tensors, pick: Tensor) -> Tensors:
        served, own = state
        served = torch.maximum(served, known[0].index_select(1, pick))
        return served, torch.where(torch.arange(n) == pick, -BIG, own)

    start = torch.zeros(gains.shape[0], 1), bonus.unsqueeze(0)
    known = gains, alike * gain(gains, start).amax(1, keepdim=True)
    taken = take_one_by_one(score(known, start).argmax(1), known, start, score, update, k)
    return raster_indices(mask_of(taken, n), k)


def determinantal(similar: Tensor, quality: Tensor, k: int) -> Tensor:
    """Tokens that span the most volume, by greedy MAP: [N, N], [N] -> [k] int64, raster order.

    The kernel is `quality[i] * similar[i, j] * quality[j]`; each step takes the token with the
    largest residual of an incremental Cholesky decomposition, on a grid of 1 / `GRAINS`. Where
    none is left above 0 the volume is 0 whatever is taken, and the highest quality goes first.

    Args:
        similar: symmetric, 1 on the diagonal, or 0 for a token that is nothing.
        quality: in [0, 1].
    """
    kernel = quality.unsqueeze(1) * similar * quality * GRAINS
    n = kernel.shape[0]
    start = torch.where(torch.eye(n, dtype=torch.bool), kernel, 0.0).sum(1)
    first = start.unsqueeze(0).round().argmax(1)
    # Once no residual is left, the first token is taken again and again, whatever these rounds
    # leave of its own; those taken are then one short.
    again = one_hot(first, n) * 0.5

    def score(known: Tensors, state: Tensors) -> Tensor:
        return torch.maximum(state[0].round(), known[1])

    def update(known: Tensors, state: Tensors, pick: Tensor) -> Tensors:
        residual, factor = state
        row = known[0].index_select(0, pick) - factor.index_select(1, pick).T @ factor
        row = row / residual.index_select(1, pick).clamp(min=1.0).sqrt()
        return residual - row * row, torch.cat([factor, row])

    state = start.unsqueeze(0), torch.zeros(1, n)  # a row of zeros takes nothing away
    taken = take_one_by_one(first, (kernel, again), state, score, update, k)
    return forced_topk(quality, mask_of(taken, n), k)


def dedup_halving(similar: Tensor, ranked: Tensor, keep: int, step: int) -> Tensor:
    """Drop tokens that resemble others until `keep` are left: [R] int64 -> [keep] int64.

    The list is split into its even and odd places; the `step` even ones most similar to an odd
    one go, the other even ones follow by descending similarity, then the odd ones. Repeated.
    """
    while ranked.shape[0] > keep:
        # Places are constants: to gather them is one node of a graph, a slice a dozen at first.
        even = ranked.index_select(0, torch.arange(0, ranked.shape[0], 2))
        odd = ranked.index_select(0, torch.arange(1, ranked.shape[0], 2))
        nearest = similar.index_select(0, even).index_select(1, odd).amax(1)
        gone = min(step, ranked.shape[0] - keep, even.shape[0])
        stay = order_on_grid(nearest).index_select(0, torch.arange(gone, even.shape[0]))
        ranked = torch.cat([even.index_select(0, stay), odd])
    return ranked


def _but_self(similar: Tensor, value: float) -> Tensor:
    """[N, N] with `value` on the diagonal."""
    return torch.where(torch.eye(similar.shape[0], dtype=torch.bool), value, similar)


def least_alike(units: Tensor, pivots: Sequence[Tensor], kept: Tensor, more: int) -> Tensor:
    """Each pivot in turn keeps the rows that resemble it least, the same number each (DART).

    Args:
        units: [N, V], rows of length 1.
        pivots: [P, V] each, rows of length 1; one after the other.
        kept: [N] bool, what is kept already.
        more: rows to keep in all; where they do not divide, the first pivots have one more.

    Returns:
        [N] bool.
    """
    asking = torch.cat(list(pivots))
    for number, count in enumerate(share_evenly(more, asking.shape[0])):
        if count:
            alike = (units * asking[number]).sum(1)
            kept = kept | topk_mask(exclude(-alike, kept), count)
    return kept
