"""Each method's procedure from its paper in plain Python and NumPy, with none of the core
but one: VisPruner's cosines, see there.

Cosines that decide between tokens are rounded to 1/4096, as the methods state that they compare
them; attention that is only ranked is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetok.tokens import repeatable_similarity

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


def quarters_of(grid: tuple[int, int]) -> list[list[int]]:
    rows, columns = grid
    quarters: list[list[int]] = [[], [], [], []]
    for i in range(rows * columns):
        below, right = i // columns * 2 >= rows, i % columns * 2 >= columns
        quarters[2 * below + right].append(i)
    return quarters


# --- the methods ----------------------------------------------------------------------------------


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


def dart(features: Any, k: int) -> Result:
    x = array(features.x)
    kept = highest(np.abs(x).sum(1), min(4, k))
    pivots, more = list(kept), k - len(kept)
    for number, pivot in enumerate(pivots):
        left = [i for i in range(len(x)) if i not in kept]
        unlike = [-cosine(x[pivot], x[i]) for i in left]
        kept += [left[i] for i in highest(unlike, more // 4 + (number < more % 4))]
    return prune(features, sorted(kept))


def todre(features: Any, k: int) -> Result:
    similar = cosines(array(features.x))
    taken = [ranked(features.probe("next_cls_attention").tolist())[0]]
    while len(taken) < k:
        left = [i for i in range(len(similar)) if i not in taken]
        taken.append(min(left, key=lambda i: (sum(similar[i][j] for j in taken), i)))
    return prune(features, sorted(taken))


def vispruner(features: Any, k: int) -> Result:
    """Over the method's own cosines, which test_repeatable.py holds to the true ones: of so many
    pairs, one in a thousand lies so near the middle of two steps that float64 takes the other.
    """
    similar = repeatable_similarity(features.x).tolist()
    by_score = ranked(features.cls_attention.tolist())
    important, left = by_score[: k // 2], by_score[k // 2 :]
    while len(left) > k - k // 2:
        odd = left[1::2]
        even = [(max(similar[i][j] for j in odd), i) for i in left[::2]]
        even.sort(key=lambda pair: -pair[0])  # stable: equal ones stay in the list's order
        left = [i for _, i in even[min(8, len(left) - (k - k // 2)) :]] + odd
    return prune(features, sorted(important + left))


def mustdrop(features: Any, k: int) -> Result:
    return prune(features, highest(features.probe("next_cls_attention"), k))


def tokencorr(features: Any, k: int) -> Result:
    similar, score = cosines(array(features.keys)), features.cls_attention.tolist()
    quarters = quarters_of(features.grid)
    distinct = []
    for quarter in quarters:
        repeats = [sum(similar[i][j] > 0.8 for j in quarter) for i in quarter]
        distinct.append(sum(10 * count < len(quarter) for count in repeats))
    total = max(sum(distinct), 1)
    quotas = [k * count // total for count in distinct]
    for q in sorted(range(4), key=lambda q: (-(k * distinct[q] % total), q))[: k - sum(quotas)]:
        quotas[q] += 1
    kept: list[int] = []
    for quarter, quota in zip(quarters, quotas, strict=True):
        kept += sorted(quarter, key=lambda i: (-score[i], i))[:quota]
    left = [i for i in ranked(score) if i not in kept]
    return prune(features, sorted(kept + left[: k - len(kept)]))


def random(features: Any, k: int) -> Result:
    raw = np.random.PCG64(0).random_raw(len(features.x))
    return prune(features, sorted(sorted(range(len(raw)), key=lambda i: int(raw[i]))[:k]))


def lvlm_csp(features: Any, k: int) -> Result:
    n = len(features.x)
    return prune(features, [int(i * n / k + 1e-9) for i in range(k)])


def flowcut_score(features: Any, k: int) -> Result:
    return prune(features, highest(features.probe("flow_score"), k))


def globalcom2(features: Any, k: int) -> Result:
    return prune(features, ranked(features.probe("next_cls_logits").tolist())[:k])


REFERENCES: dict[str, Callable[[Any, int], Result]] = {
    "fastervlm": fastervlm,
    "vtc-cls": vtc_cls,
    "fopru": fopru,
    "fopru-row": fopru_row,
    "hiprune": hiprune,
    "sparsity-similarity": sparsity_similarity,
    "divprune": divprune,
    "dart": dart,
    "todre": todre,
    "vispruner": vispruner,
    "mustdrop": mustdrop,
    "tokencorr": tokencorr,
    "lvlm-csp": lvlm_csp,
    "lvlm-csp-cls": fastervlm,
    "hired": fastervlm,
    "globalcom2": globalcom2,
    "flowcut-score": flowcut_score,
    "random": random,
}
