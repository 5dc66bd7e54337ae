"""Each method's procedure from its paper in plain Python and NumPy, with none of the core.

Cosines that decide between tokens are rounded to 1/4096, as the methods state that they compare
them; attention that is only ranked is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Result = tuple[Array, list[int], list[float]]  # tokens [K, V], source indices [K], sizes [K]


def array(tensor: Any) -> Array:
    return np.asarray(tensor.tolist(), np.float64)


def cosine(a: Array, b: Array) -> float:
    lengths = float(np.sqrt((a * a).sum())) * float(np.sqrt((b * b).sum()))
    return round(float((a * b).sum()) / lengths, 12) if lengths else 0.0


def coarse(value: float) -> float:
    """To the nearest multiple of 1/4096, halves to the even one."""
    return round(value * 4096) / 4096


def cosines(rows: Array, others: Array | None = None) -> list[list[float]]:
    others = rows if others is None else others
    return [[coarse(cosine(a, b)) for b in others] for a in rows]


def ranked(scores: Sequence[float]) -> list[int]:
    """Indices by descending score, ties by index."""
    return sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))


def highest(scores: Any, k: int) -> list[int]:
    return sorted(ranked(scores)[:k])


def prune(features: Any, kept: Sequence[int]) -> Result:
    return array(features.x)[list(kept)], list(kept), [1.0] * len(kept)


# --- one score per patch --------------------------------------------------------------------------


def fastervlm(features: Any, k: int) -> Result:
    return prune(features, highest(features.cls_attention, k))


def vtc_cls(features: Any, k: int) -> Result:
    return prune(features, highest(features.probe("late_cls_attention"), k))


def fopru(features: Any, k: int) -> Result:
    return prune(features, highest(features.received_attention, k))


def fopru_row(features: Any, k: int) -> Result:
    rows, columns = features.grid
    scores = array(features.received_attention).reshape(rows, columns)
    means = [sum(row) / columns for row in scores.tolist()]
    best = max(means) or 1.0
    kept = highest([coarse(mean / best) for mean in means], k // columns)
    return prune(features, [row * columns + c for row in kept for c in range(columns)])


def hiprune(features: Any, k: int) -> Result:
    n, columns = len(features.x), features.grid[1]
    anchors = highest(features.probe("object_attention"), round(k * 0.1 / 5))
    around = {a + d for a in anchors for d in (0, 1, -1, columns, -columns)}
    kept = {min(max(i, 0), n - 1) for i in around}
    for i in ranked(features.received_attention.tolist()):
        if len(kept) < k:
            kept.add(i)
    return prune(features, sorted(kept))


def sparsity_similarity(features: Any, k: int) -> Result:
    own = array(features.cls_feature)[0]
    return prune(features, highest([coarse(cosine(row, own)) for row in array(features.x)], k))


# --- one after the other --------------------------------------------------------------------------


def divprune(features: Any, k: int) -> Result:
    similar = cosines(array(features.x))
    n = len(similar)

    def nearest(i: int, among: Sequence[int]) -> float:
        return max(similar[i][j] for j in among if j != i)

    taken = [min(range(n), key=lambda i: (nearest(i, range(n)), i))]
    while len(taken) < k:
        left = [i for i in range(n) if i not in taken]
        taken.append(min(left, key=lambda i: (nearest(i, taken), i)))
    return prune(features, sorted(taken))


def todre(features: Any, k: int) -> Result:
    similar = cosines(array(features.x))
    taken = [ranked(features.probe("next_cls_attention").tolist())[0]]
    while len(taken) < k:
        left = [i for i in range(len(similar)) if i not in taken]
        taken.append(min(left, key=lambda i: (sum(similar[i][j] for j in taken), i)))
    return prune(features, sorted(taken))


# --- dominant and contextual ----------------------------------------------------------------------


def visionzip(features: Any, k: int, contextual: int | None = None) -> Result:
    x, keys = array(features.x), array(features.keys)
    contextual = contextual or max(1, round(10 * k / 64))
    dominant = highest(features.cls_attention, k - contextual - 1)
    rest = [i for i in range(len(x)) if i not in dominant]
    step = max(1, len(rest) // contextual)
    centres = [rest[j * step] for j in range(contextual)]
    members: dict[int, list[int]] = {centre: [] for centre in centres}
    for i in rest:
        if i not in centres:
            members[max(centres, key=lambda c: (cosine(keys[i], keys[c]), -c))].append(i)
    rows = [array(features.cls_feature)[0], *x[dominant]]
    for centre in centres:
        joined = members[centre]
        rows.append(x[centre] + (x[joined].mean(0) if joined else 0.0))
    sizes = [1.0] * (k - contextual) + [1.0 + len(members[c]) for c in centres]
    return np.stack(rows), [-1, *dominant, *centres], sizes


# --- baselines ------------------------------------------------------------------------------------


def random(features: Any, k: int) -> Result:
    raw = np.random.PCG64(0).random_raw(len(features.x))
    return prune(features, sorted(sorted(range(len(raw)), key=lambda i: int(raw[i]))[:k]))


REFERENCES: dict[str, Callable[[Any, int], Result]] = {
    "fastervlm": fastervlm,
    "vtc-cls": vtc_cls,
    "fopru": fopru,
    "fopru-row": fopru_row,
    "hiprune": hiprune,
    "sparsity-similarity": sparsity_similarity,
    "divprune": divprune,
    "todre": todre,
    "visionzip": visionzip,
    "random": random,
}
