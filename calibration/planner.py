"""How many visual tokens each decoder layer should see: G-Search and P-Sigmoid (arXiv 2412.00556).

Both choose a keep count per layer that never grows with depth. G-Search goes from shallow to deep
and keeps the fewest tokens that leave a metric within a tolerance. P-Sigmoid draws the counts from
a sigmoid over the layers and looks for the steepness that serves the metric best at a given cost.

The paper's grid, stop rule and Bayesian search are not published in a form that could be checked;
the grid here is given by the caller, and the steepness comes from a list.

Experimental: no verb uses it (docs/stability.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgetok.errors import UsageError

Keep = tuple[int, ...]  # visual tokens per layer, never growing
Metric = Callable[[Keep], float]  # larger is better, such as the share of unchanged answers
Cost = Callable[[Keep], float]  # such as FLOPs, or milliseconds from a measured table

SLOPES = (0.25, 0.5, 1.0, 2.0, 4.0)
MOST_PLATEAUS = 4  # every change of the count is a gather in the graph
_BISECTIONS = 48


@dataclass(frozen=True)
class DecoderShape:
    """What a decoder's arithmetic depends on.

    Args:
        mlp: width of the gated MLP.
        text_rows: rows beside the visual tokens, which every layer sees.
    """

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    text_rows: int

    def flops(self, keep: Keep) -> float:
        """FLOPs of a prefill, 2 per multiplication, causal attention counted as half a square."""
        queries, pairs = self.heads * self.head_dim, 2 * self.kv_heads * self.head_dim
        weights = self.hidden * (2 * queries + pairs) + 3 * self.hidden * self.mlp
        rows = [self.text_rows + count for count in keep]
        return sum(2.0 * n * weights + 2.0 * n * n * queries for n in rows)


def search_greedily(
    full: int, layers: int, metric: Metric, *, grid: Sequence[int], tolerance: float = 0.01
) -> Keep:
    """G-Search: per layer, shallow to deep, the smallest count that does not hurt.

    Args:
        full: visual tokens that enter layer 0, which always sees all of them.
        grid: counts that may be chosen; 0 drops all visual tokens.
        tolerance: by how much of its full value the metric may fall.

    Raises:
        UsageError: for an empty grid, counts outside 0..full, or a tolerance outside [0, 1).
    """
    _require_counts(full, layers, grid)
    if not 0 <= tolerance < 1:
        raise UsageError(f"tolerance {tolerance} is outside 0..1; 0.01 allows to lose a hundredth")
    keep = [full] * layers
    enough = (1 - tolerance) * metric(tuple(keep))
    for layer in range(1, layers):
        for count in sorted({c for c in grid if c < keep[layer]}, reverse=True):
            tried = [*keep[:layer], *[count] * (layers - layer)]
            if metric(tuple(tried)) < enough:
                break
            keep = tried
    return tuple(keep)


def fit_sigmoid(
    full: int,
    layers: int,
    metric: Metric,
    cost: Cost,
    budget: float,
    *,
    smallest: int = 0,
    slopes: Sequence[float] = SLOPES,
) -> Keep:
    """P-Sigmoid: the best of several steepnesses, each shifted so that it costs the budget.

    Raises:
        UsageError: if even the fewest tokens cost more; says what they cost.
    """
    _require_counts(full, layers, [smallest])
    fewest = _sigmoid(full, layers, smallest, math.inf, 0.0)
    if cost(fewest) > budget:
        raise UsageError(
            f"a budget of {budget:.4g} is below {cost(fewest):.4g}, which {smallest} visual tokens "
            "behind layer 0 cost already; raise it"
        )
    found = {_fit_shift(full, layers, cost, budget, smallest, slope) for slope in slopes}
    return max(sorted(found), key=metric)


def flatten(keep: Keep, plateaus: int = MOST_PLATEAUS) -> Keep:
    """The counts with at most so many different values, never fewer tokens than asked for.

    Neighbouring runs are joined where that adds the fewest tokens.

    >>> flatten((100, 90, 50, 20, 10), 3)
    (100, 100, 50, 20, 20)
    """
    runs = [[keep[0], 1]]
    for count in keep[1:]:
        if count == runs[-1][0]:
            runs[-1][1] += 1
        else:
            runs.append([count, 1])
    while len(runs) > max(1, plateaus):
        added = [(high[0] - low[0]) * low[1] for high, low in pairwise(runs)]
        at = added.index(min(added))
        runs[at][1] += runs.pop(at + 1)[1]
    return tuple(count for count, times in runs for _ in range(times))


def _fit_shift(
    full: int, layers: int, cost: Cost, budget: float, smallest: int, slope: float
) -> Keep:
    """The latest fall of this steepness that stays within the budget, by bisection."""
    low, high = -float(layers) - 20 / slope, 2.0 * layers + 20 / slope
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if cost(_sigmoid(full, layers, smallest, slope, middle)) <= budget:
            low = middle
        else:
            high = middle
    return _sigmoid(full, layers, smallest, slope, low)


def _sigmoid(full: int, layers: int, smallest: int, slope: float, shift: float) -> Keep:
    """Counts from `full` down to `smallest`, half way at layer `shift`; layer 0 sees all."""
    counts = [full]
    for layer in range(1, layers):
        share = 0.0 if math.isinf(slope) else _logistic(slope * (shift - layer))
        counts.append(smallest + math.floor((full - smallest) * share))
    return tuple(counts)


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


def _require_counts(full: int, layers: int, counts: Sequence[int]) -> None:
    if not counts:
        raise UsageError("no counts to choose from; give some, such as 0, 32, 64, 128")
    for count in counts:
        if not 0 <= count <= full:
            raise UsageError(f"{count} visual tokens are outside 0..{full}, those of the rung")
    if layers < 1:
        raise UsageError(f"a decoder of {layers} layers cannot be planned; it needs at least 1")
