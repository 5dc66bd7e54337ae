"""Merges that keep count: which rows become one, and how many patches each then stands for.

Unlike the plans behind the encoder, these follow each other. So `sizes` [n] says what every row
stands for already, and the sizes of a plan made here are what its tokens stand for afterwards.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgetok.tokens.plan import Plan, one_hot
from edgetok.tokens.scorers import relative, similarity
from edgetok.tokens.selectors import (
    BIG,
    complement,
    mask_of,
    order,
    ranks,
    raster_indices,
    topk_mask,
)

SMALLEST_TOTAL = 1e-12


def merge_groups(
    groups: Tensor, centres: Tensor, sizes: Tensor, weight: Tensor | None = None
) -> Plan:
    """One token per group: the mean of its rows by `weight` [n], or by their sizes if None.

    groups [m, n] float32 of 0 and 1, centres [m] int64, sizes [n].
    """
    shares = groups * (sizes if weight is None else weight)
    weights = shares / shares.sum(1, keepdim=True).clamp(min=SMALLEST_TOTAL)
    return Plan(centres, groups @ sizes, groups.shape[1], weights)


def behind_prefix(plan: Plan, sizes: Tensor, prefix: int) -> Plan:
    """A plan for the patches as one for all rows: the prefix rows stay, in front.

    sizes [prefix + n], of all rows before the plan.
    """
    if prefix == 0:
        return plan
    first = torch.arange(prefix)
    moved = torch.where(plan.indices < 0, -1, plan.indices + prefix)
    indices = torch.cat([first, moved])
    total = torch.cat([sizes[:prefix], plan.sizes])
    rows = prefix + plan.source_rows
    if plan.weights is None:
        return Plan(indices, total, rows)
    below = torch.nn.functional.pad(plan.weights, (prefix, 0))
    return Plan(indices, total, rows, torch.cat([one_hot(first, rows), below]))


# --- two sets ------------------------------------------------------------------------------------


def alternating(n: int) -> tuple[Tensor, Tensor]:
    """Even rows as sources, odd rows as targets: constants [ceil(n / 2)], [n // 2] int64."""
    return torch.arange(0, n, 2), torch.arange(1, n, 2)


def every_kth(n: int, k: int) -> tuple[Tensor, Tensor]:
    """All other rows as sources, every k-th from the first as targets: constants, int64."""
    targets = torch.arange(0, n, k)
    return complement(targets, n), targets


def set_edges(
    metric: Tensor, sources: Tensor, targets: Tensor, prefix: int = 0, band: int | None = None
) -> Tensor:
    """Cosine on the grid of each source with each target: [n, H] -> [S, T].

    Prefix rows are far from everything, and so are rows more than `band` places away.
    """
    edges = similarity(metric.index_select(0, sources), metric.index_select(0, targets))
    if band is not None:
        away = (sources.unsqueeze(1) - targets.unsqueeze(0)).abs() > band
        edges = torch.where(away, -BIG, edges)
    return keep_prefix(edges, sources, targets, prefix)


def keep_prefix(edges: Tensor, sources: Tensor, targets: Tensor, prefix: int) -> Tensor:
    """Edges [S, T] with those of prefix rows behind all others."""
    if prefix == 0:
        return edges
    protected = (sources < prefix).unsqueeze(1) | (targets < prefix).unsqueeze(0)
    return torch.where(protected, -BIG, edges)


def merge_sets(
    edges: Tensor, sources: Tensor, targets: Tensor, r: int, *, in_order: bool, prefix: int = 0
) -> tuple[Tensor, Tensor]:
    """The `r` sources of highest edge join their best target: -> groups [n - r, n], centres.

    Order: sources that stay, ascending if `in_order` and by descending edge if not, then targets;
    prefix rows, whose edges are those of `keep_prefix`, stand in front of both as they stood.

    Args:
        edges: [S, T].
        sources, targets: [S], [T] int64, all n rows together.
        r: at most S.
        prefix: rows in front that never merge; with any, rows alternate and `in_order` holds.
    """
    n = sources.shape[0] + targets.shape[0]
    stay, gone, joined = _round(edges, r, in_order=in_order)
    merged = one_hot(targets, n) + joined.T @ one_hot(sources.index_select(0, gone), n)
    if stay.shape[0] == 0:
        return merged, targets
    kept = sources.index_select(0, stay)
    groups, centres = torch.cat([one_hot(kept, n), merged]), torch.cat([kept, targets])
    return _prefix_first(groups, centres, prefix, kept.shape[0])


def _prefix_first(
    groups: Tensor, centres: Tensor, prefix: int, odd_at: int
) -> tuple[Tensor, Tensor]:
    """Prefix rows to the front: even ones are there already, odd ones from `odd_at` on."""
    if prefix < 2:
        return groups, centres
    places = [odd_at + row // 2 if row % 2 else row // 2 for row in range(prefix)]
    places += sorted(set(range(groups.shape[0])).difference(places))
    moved = torch.tensor(places)
    return groups.index_select(0, moved), centres.index_select(0, moved)


def merge_both_ways(
    edges: Tensor, sources: Tensor, targets: Tensor, r: int, prefix: int = 0
) -> tuple[Tensor, Tensor]:
    """Half of `r` sources join a target, then targets join sources that stayed (MCTF).

    A target takes along what joined it. -> groups [n - r, n] and centres: sources that stay,
    ascending, then targets that stay, by descending edge; prefix rows in front of both.
    Arguments as in `merge_sets`, but `r` leaves a source and a target.
    """
    n, first = sources.shape[0] + targets.shape[0], r // 2
    stay, gone, joined = _round(edges, first, in_order=True)
    groups = one_hot(targets, n) + joined.T @ one_hot(sources.index_select(0, gone), n)
    kept = sources.index_select(0, stay)
    back = edges.index_select(0, stay).T
    stay, gone, joined = _round(back, r - first, in_order=False)
    into = one_hot(kept, n) + joined.T @ groups.index_select(0, gone)
    left = groups.index_select(0, stay)
    merged, centres = torch.cat([into, left]), torch.cat([kept, targets.index_select(0, stay)])
    # Edges of prefix rows are the lowest of all, so that these come last, in their order.
    return _prefix_first(merged, centres, prefix, merged.shape[0] - prefix // 2)


def _round(edges: Tensor, r: int, *, in_order: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Rows that stay, rows that go [r], and which column each joins [r, columns]."""
    count, columns = edges.shape
    ranked = order(edges.amax(1))
    gone, stay = ranked[:r], ranked[r:]
    joined = one_hot(edges.argmax(1).index_select(0, gone), columns)
    if in_order and r < count:
        stay = raster_indices(mask_of(stay, count), count - r)
    return stay, gone, joined


def merge_adjacent(metric: Tensor, r: int, sizes: Tensor, band: int = 1) -> Plan:
    """Merge neighbours of a one-dimensional signal, in order (after MergeDNA).

    Rows at even places join the most similar row at an odd place at most `band` away; the r most
    similar do. Tokens are means by size and keep the order of the signal.

    metric [n, H], sizes [n], r at most ceil(n / 2) -> a plan of n - r tokens.
    """
    sources, targets = alternating(metric.shape[0])
    edges = set_edges(metric, sources, targets, band=band)
    groups, centres = merge_sets(edges, sources, targets, r, in_order=True)
    by_place = (-centres.float()).topk(centres.shape[0]).indices
    in_order = groups.index_select(0, by_place), centres.index_select(0, by_place)
    return merge_groups(*in_order, sizes)


def merge_ranked(similar: Tensor, ranked: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """Of the first 2 r ranked rows, the 1st, 3rd, ... join the 2nd, 4th, ... nearest to each.

    similar [n, n], ranked [n] int64 -> groups [n - r, n] and centres: the other rows by rank, then
    the targets by theirs.
    """
    n = ranked.shape[0]
    sources, targets, alone = ranked[: 2 * r : 2], ranked[1 : 2 * r : 2], ranked[2 * r :]
    edges = similar.index_select(0, sources).index_select(1, targets)
    joined = one_hot(edges.argmax(1), r)
    merged = one_hot(targets, n) + joined.T @ one_hot(sources, n)
    if alone.shape[0] == 0:
        return merged, targets
    return torch.cat([one_hot(alone, n), merged]), torch.cat([alone, targets])


def ahead_in_order(metric: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of all pairs, and for each row the highest to a row behind it in order (CrossGET).

    The order is by the cosine to the nearest other row, descending, so that of two nearest rows
    one is behind the other. metric [n, H] -> [n, n], a row itself far away, and [n]; the last row
    has none behind it.
    """
    itself = torch.eye(metric.shape[0], dtype=torch.bool)
    similar = torch.where(itself, -BIG, similarity(metric, metric))
    place = ranks(similar.amax(1))
    behind = place.unsqueeze(0) > place.unsqueeze(1)
    return similar, torch.where(behind, similar, -BIG).amax(1)


def keep_and_sum(scores: Tensor, sizes: Tensor, k: int) -> Plan:
    """The k - 1 highest in raster order, and the others in one sum by their scores (EViT).

    scores [n], sizes [n] -> a plan of k tokens; the sum is not divided by anything.
    """
    n, kept = scores.shape[0], topk_mask(relative(scores), k - 1)
    indices = raster_indices(kept, k - 1)
    ones = one_hot(indices, n)
    total = torch.cat([ones, (~kept).float().unsqueeze(0)]) @ sizes
    weights = torch.cat([ones, torch.where(kept, 0.0, scores).unsqueeze(0)])
    return Plan(torch.cat([indices, torch.tensor([-1])]), total, n, weights)


# --- windows -------------------------------------------------------------------------------------


def square_windows(grid: tuple[int, int], side: int) -> Tensor:
    """Patches of each whole window of side x side, from the top left: a constant [W, side²] int64.

    Rows and columns that fill no window are in none.
    """
    rows, columns = grid
    top = torch.arange(rows // side) * side
    left = torch.arange(columns // side) * side
    corner = (top.unsqueeze(1) * columns + left).reshape(-1, 1)
    step = torch.arange(side)
    return corner + (step.unsqueeze(1) * columns + step).reshape(1, -1)


def window_likeness(metric: Tensor, windows: Tensor) -> Tensor:
    """Mean cosine on the grid of the different patches of each window: [N, H], [W, c] -> [W]."""
    count, members = windows.shape
    rows = metric.index_select(0, windows.reshape(-1))
    units = rows / (rows * rows).sum(1, keepdim=True).sqrt().clamp(min=1e-6)
    units = units.reshape(count, members, -1)
    pairs = units @ units.transpose(1, 2)
    pairs = (pairs * 4096).round() / 4096 * (1 - torch.eye(members))
    return pairs.sum((1, 2))  # multiples of 1 / 4096: exact, so equal windows tie


def merge_windows(likeness: Tensor, windows: Tensor, count: int, n: int) -> tuple[Tensor, Tensor]:
    """The `count` windows most alike become one token each: -> groups, centres (their corners).

    Order: merged windows, then the other patches, both in raster order. likeness [W].
    """
    chosen = order(likeness)[:count]
    chosen = raster_indices(mask_of(chosen, windows.shape[0]), count)
    inside = (windows.unsqueeze(2) == torch.arange(n)).any(1).float()  # [W, n], a constant
    merged = inside.index_select(0, chosen)
    corners = windows[:, 0].index_select(0, chosen)
    left = n - count * windows.shape[1]
    if left == 0:
        return merged, corners
    others = raster_indices(merged.sum(0) == 0, left)
    return torch.cat([merged, one_hot(others, n)]), torch.cat([corners, others])
