"""Matchers: which tokens are merged with which."""

from __future__ import annotations

import torch
from torch import Tensor

from edgetok.tokens.mergers import mean
from edgetok.tokens.plan import Plan, one_hot
from edgetok.tokens.scorers import on_grid, similarity
from edgetok.tokens.selectors import exclude, mask_of, order, topk_mask

SMALLEST_WEIGHT = 1e-12


def bipartite(
    metric: Tensor, r: int, sizes: Tensor | None = None, penalty: Tensor | None = None
) -> Plan:
    """Merge the `r` even tokens that most resemble an odd one into it: a plan of n - r tokens.

    Order: even tokens that stay, by descending similarity, then the odd ones.

    Args:
        metric: [n, H], compared by cosine.
        r: at most n // 2.
        sizes: [n], weights of the mean; 1 each if None.
        penalty: [n], taken from an even token's similarity, so that it is merged later.
    """
    n = metric.shape[0]
    edges = similarity(metric[::2], metric[1::2])  # [even, odd]
    if penalty is not None:
        edges = on_grid(edges - penalty[::2].unsqueeze(1))
    ranked = order(edges.amax(1))
    gone, stay = ranked[:r], ranked[r:]
    joins = one_hot(edges.argmax(1).index_select(0, gone), n // 2)  # [r, odd]
    odd = torch.arange(1, n, 2)
    weights = mean(odd, joins.T @ one_hot(gone * 2, n), sizes)
    merged = Plan.mix(weights, odd)
    return Plan.gather(stay * 2, n).concat(merged) if stay.shape[0] else merged


def halve(metric: Tensor, k: int, penalty: Tensor | None = None, *, by_size: bool = False) -> Plan:
    """Repeat `bipartite` until `k` tokens are left, metric and penalty merged along: -> a plan.

    metric [N, H], penalty [N]; `by_size` weighs means by how many tokens each stands for.
    """
    n = metric.shape[0]
    plan = Plan.identity(n)
    while n > k:
        r = min(n // 2, n - k)
        extra = None if penalty is None else plan.apply(penalty.unsqueeze(1))[:, 0]
        step = bipartite(plan.apply(metric), r, plan.sizes if by_size else None, extra)
        plan, n = plan.compose(step), n - r
    return plan


def nearest_tokens(
    metric: Tensor, centres: Tensor, count: int, members: Tensor | None = None
) -> Tensor:
    """The `count` tokens most similar to each centre, itself left out: -> [C, N] float32.

    metric [N, H], centres [C] int64; of `members` [N] bool only, if given.
    """
    similar = similarity(metric.index_select(0, centres), metric)
    out = one_hot(centres, metric.shape[0]).bool()
    out = out if members is None else out | ~members
    return topk_mask(exclude(similar, out), count).float()


def sum_neighbours(
    metric: Tensor, weight: Tensor, centres: Tensor, count: int, members: Tensor | None = None
) -> Plan:
    """Add to each centre its nearest tokens by `weight`; a last token sums all but the centres.

    metric [N, H], weight [N], centres [C] int64 -> a plan of C + 1 tokens, made of `members` [N]
    bool only, if given.
    """
    n = metric.shape[0]
    around = one_hot(centres, n) + nearest_tokens(metric, centres, count, members) * weight
    left = ~mask_of(centres, n) if members is None else ~mask_of(centres, n) & members
    rest = torch.where(left, weight, 0.0).unsqueeze(0)
    return Plan.mix(torch.cat([around, rest]), torch.cat([centres, torch.tensor([-1])]))


def kmeans(x: Tensor, weight: Tensor, members: Tensor, start: Tensor, steps: int) -> Tensor:
    """Clusters by cosine, means by `weight`, after a fixed number of steps: -> weights [C, N].

    A cluster that loses all its members keeps the mean that it had.

    Args:
        x: [N, V].
        weight: [N], positive.
        members: [N] bool, the tokens to cluster.
        start: [C] int64, the first centres.
    """
    weights = one_hot(start, x.shape[0])
    for _ in range(steps):
        joined = one_hot(similarity(weights @ x, x).argmax(0), start.shape[0]).T
        groups = joined * (weight * members.float())
        total = groups.sum(1, keepdim=True)
        weights = torch.where(total > 0, groups / total.clamp(min=SMALLEST_WEIGHT), weights)
    return weights


def density_peaks(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Clusters around rows that are dense and far from denser ones: -> centres [count], groups.

    Density is exp of minus the mean squared distance to the `count` nearest rows, itself among
    them; distances are over the root of V. Each row joins the nearest centre (DPC-KNN). Centres
    come by descending density times distance; ties go to the earlier row.

    x [m, V] -> int64 [count], groups [count, m] float32 of 0 and 1.
    """
    m = x.shape[0]
    # Rows are subtracted one by one: by products, equal ones would not have distance 0.
    apart = ((x.unsqueeze(1) - x.unsqueeze(0)).square().sum(2) / x.shape[1]).sqrt()
    near = (-apart).topk(count).values
    density = (-near.square().mean(1)).exp()
    place = torch.arange(m)
    earlier = place.unsqueeze(0) < place.unsqueeze(1)
    own, other = density.unsqueeze(1), density.unsqueeze(0)
    denser = (other > own) | ((other == own) & earlier)
    alone = torch.where(denser, apart, apart.amax((0, 1))).amin(1)
    centres = order(alone * density)[:count]
    joined = one_hot((-apart.index_select(0, centres)).argmax(0), count).T
    return centres, torch.where(mask_of(centres, m), one_hot(centres, m), joined)
