"""Each step inside a tower in plain Python and NumPy, with none of the core.

A step gets what is seen of a block and how many patches to leave, and gives the weights of every
new row [m, n], the old row that each is centred on (-1 for none), and how many patches it stands
for. Cosines are rounded to 1/4096 and attention that is ranked to 1/65536 of the highest, as the
methods state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Result = tuple[Array, list[int], list[float]]


def array(tensor: Any) -> Array:
    return np.asarray(tensor.tolist(), np.float64)


def plain_cosine(a: Array, b: Array) -> float:
    lengths = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
    return float(a @ b) / lengths if lengths else 0.0


def cosine(a: Array, b: Array) -> float:
    return round(round(plain_cosine(a, b), 12) * 4096) / 4096


def ranked(scores: Sequence[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))


def best(scores: Sequence[float]) -> int:
    return ranked(scores)[0]


def relative(scores: Sequence[float]) -> list[float]:
    top = max(max(abs(s) for s in scores), 1e-30)
    return [round(s / top * 65536) / 65536 for s in scores]


def softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def map_of(look: Any) -> Array:
    """Attention [heads, n, n]."""
    query, key = array(look.query), array(look.key)
    bias = np.zeros(key.shape[1]) if look.bias is None else array(look.bias)
    return np.array(
        [[softmax(k @ q + bias) for q in queries] for queries, k in zip(query, key, strict=True)]
    )


def importance(look: Any) -> list[float]:
    """Attention of the CLS row to the patches, or attention received, mean over heads."""
    maps = map_of(look)
    if look.prefix:
        return maps[:, 0, look.prefix :].mean(0).tolist()
    return maps.mean((0, 1)).tolist()


def groups_to_result(look: Any, groups: Sequence[Sequence[int]], centres: list[int]) -> Result:
    """Means by size; a group is its rows."""
    sizes = array(look.sizes)
    return weighed(look, groups, centres, sizes)


def weighed(
    look: Any, groups: Sequence[Sequence[int]], centres: list[int], weight: Array
) -> Result:
    weights = np.zeros((len(groups), len(weight)))
    for number, group in enumerate(groups):
        total = sum(weight[row] for row in group)
        for row in group:
            weights[number, row] = weight[row] / total
    sizes = array(look.sizes)
    return weights, centres, [float(sum(sizes[row] for row in group)) for group in groups]


def behind_prefix(look: Any, patches: Result) -> Result:
    """A result for patches alone as one for all rows."""
    prefix, (weights, centres, sizes) = look.prefix, patches
    count = weights.shape[1]
    whole = np.zeros((prefix + len(weights), prefix + count))
    for row in range(prefix):
        whole[row, row] = 1
    whole[prefix:, prefix:] = weights
    moved = [centre + prefix if centre >= 0 else -1 for centre in centres]
    return whole, [*range(prefix), *moved], [*array(look.sizes)[:prefix], *sizes]


def patch_sizes(look: Any) -> Array:
    return array(look.sizes)[look.prefix :]


def patch_groups(look: Any, groups: Sequence[Sequence[int]], centres: list[int]) -> Result:
    shifted = [[row + look.prefix for row in group] for group in groups]
    own = [[row] for row in range(look.prefix)]
    rows = [*range(look.prefix), *(centre + look.prefix for centre in centres)]
    return groups_to_result(look, [*own, *shifted], rows)


# --- the methods ----------------------------------------------------------------------------------


def by_place(look: Any, keep: int, metric: Array, weight: Array | None = None) -> Result:
    n = len(metric)
    even, odd = list(range(0, n, 2)), list(range(1, n, 2))
    nearest, likeness = {}, []
    for row in even:
        edges = [
            -1e9 if other < look.prefix else cosine(metric[row], metric[other]) for other in odd
        ]
        nearest[row] = odd[best(edges)]
        likeness.append(-1e9 if row < look.prefix else max(edges))
    by_likeness = [even[i] for i in ranked(likeness)]
    gone = by_likeness[: n - look.prefix - keep]
    stay = by_likeness[len(gone) :]
    stay = sorted(stay) if look.prefix else stay
    joined = {row: [row, *(s for s in sorted(gone) if nearest.get(s) == row)] for row in range(n)}
    rows = list(range(look.prefix)) + [row for row in stay + odd if row >= look.prefix]
    weight = array(look.sizes) if weight is None else weight
    return weighed(look, [joined[row] for row in rows], rows, weight)


def tome(look: Any, keep: int) -> Result:
    return by_place(look, keep, array(look.key).mean(0))


def pitome(look: Any, keep: int) -> Result:
    depth, evenly = max(look.encoder.blocks, look.encoder.depth), np.ones(len(look.x))
    if look.block <= depth / 2:
        return by_place(look, keep, array(look.x), evenly)
    margin = 0.9 - 0.9 * look.block / depth
    x = array(look.x)[look.prefix :]
    n = len(x)
    energies = []
    for a in x:
        above = [cosine(a, b) - margin for b in x]
        energies.append(sum(z if z > 0 else math.exp(z) - 1 for z in above) / n)
    order = ranked(relative(energies))
    r = n - keep
    sources, targets, alone = order[: 2 * r : 2], order[1 : 2 * r : 2], order[2 * r :]
    joined: dict[int, list[int]] = {row: [row] for row in targets}
    for row in sources:
        edges = [cosine(x[row], x[other]) for other in targets]
        joined[targets[best(edges)]].append(row)
    groups = [[row] for row in range(look.prefix)]
    groups += [[row + look.prefix for row in joined.get(own, [own])] for own in alone + targets]
    centres = [*range(look.prefix), *(row + look.prefix for row in alone + targets)]
    return weighed(look, groups, centres, evenly)


def mctf(look: Any, keep: int) -> Result:
    x, sizes = array(look.x), array(look.sizes)
    received = np.maximum(map_of(look).mean((0, 1)), 1e-12)
    n, r = len(x), len(x) - look.prefix - keep
    seldom, small = (1 / received) / (1 / received).max(), (1 / sizes) / (1 / sizes).max()

    def pull(a: int, b: int) -> float:
        if min(a, b) < look.prefix:
            return -1e9
        value = (cosine(x[a], x[b]) + 1) / 2
        value *= (seldom[a] * seldom[b]) ** (1 / 20) * (small[a] * small[b]) ** (1 / 40)
        return round(value * 4096) / 4096

    even, odd = list(range(0, n, 2)), list(range(1, n, 2))
    members = {row: [row] for row in range(n)}
    edges = {a: [pull(a, b) for b in odd] for a in even}
    gone = [even[i] for i in ranked([max(edges[a]) for a in even])[: r // 2]]
    for a in gone:
        members[odd[best(edges[a])]] += members.pop(a)
    stay = [a for a in even if a not in gone]
    back = {b: [pull(a, b) for a in stay] for b in odd}
    order = [odd[i] for i in ranked([max(back[b]) for b in odd])]
    for b in order[: r - r // 2]:
        members[stay[best(back[b])]] += members.pop(b)
    rows = [row for row in stay + order[r - r // 2 :] if row >= look.prefix]
    rows = [*range(look.prefix), *rows]
    return weighed(look, [members[row] for row in rows], rows, received * sizes)


def evit(look: Any, keep: int) -> Result:
    scores, sizes = importance(look), patch_sizes(look)
    kept = sorted(ranked(relative(scores))[: keep - 1])
    weights = np.zeros((keep, len(scores)))
    for number, row in enumerate(kept):
        weights[number, row] = 1
    rest = [row for row in range(len(scores)) if row not in kept]
    for row in rest:
        weights[keep - 1, row] = scores[row]
    counts = [float(sizes[row]) for row in kept] + [float(sum(sizes[row] for row in rest))]
    return behind_prefix(look, (weights, [*kept, -1], counts))


def prune(look: Any, scores: list[float], keep: int) -> Result:
    kept = sorted(ranked(relative(scores))[:keep])
    weights = np.zeros((keep, len(scores)))
    for number, row in enumerate(kept):
        weights[number, row] = 1
    weights, centres, _ = behind_prefix(look, (weights, kept, [1.0] * keep))
    return weights, centres, [1.0] * len(centres)


def topk(look: Any, keep: int) -> Result:
    return prune(look, importance(look), keep)


def token_transforming(look: Any, keep: int) -> Result:
    x, sizes, scores = array(look.x)[look.prefix :], patch_sizes(look), importance(look)
    n = len(x)
    anchors = sorted(ranked(relative(scores))[:keep])
    near = np.array([[cosine(x[a], row) for row in x] for a in anchors])
    like = np.array([[plain_cosine(x[a], row) for row in x] for a in anchors])
    drawn = np.zeros((keep, n))
    homes = [best(near[:, row].tolist()) for row in range(n)]
    for number in range(keep):
        reached = set(range(n))
        reached |= {row for row in range(n) if homes[row] == number}
        rows = sorted(reached)
        drawn[number, rows] = softmax(like[number, rows] / 0.1 + np.log(sizes[rows]))
    shares = drawn / np.maximum(drawn.sum(0), 1e-12)
    weights = shares / shares.sum(1, keepdims=True)
    return behind_prefix(look, (weights, anchors, (shares @ sizes).tolist()))


def crossget_b(look: Any, keep: int) -> Result:
    prefix, sizes = look.prefix, patch_sizes(look)
    keys = np.concatenate(list(array(look.key)), axis=1)
    queries = np.concatenate(list(array(look.query)), axis=1)
    keys, n = keys[prefix:], len(keys) - prefix
    if prefix:
        lengths = [math.sqrt(k @ k) * math.sqrt(queries[0] @ queries[0]) for k in keys]
        raw = [k @ queries[0] / s if s else 0.0 for k, s in zip(keys, lengths, strict=True)]
    else:
        raw = map_of(look).mean((0, 1)).tolist()
    value = [round(v * 65536) / 65536 for v in raw]
    like = [[-1e9 if i == j else cosine(a, b) for j, b in enumerate(keys)]
            for i, a in enumerate(keys)]  # fmt: skip
    order = ranked([max(row) for row in like])
    ahead = {}
    for place, row in enumerate(order):
        ahead[row] = max((like[row][other] for other in order[place + 1 :]), default=-1e9)
    gone = sorted(ranked([ahead[row] - value[row] for row in range(n)])[: n - keep])
    stay = [row for row in range(n) if row not in gone]
    totals = {row: sizes[row] for row in stay}
    sums = {row: np.eye(n)[row] * sizes[row] for row in stay}
    for row in gone:
        target = stay[best([like[row][other] for other in stay])]
        share = 2 / (1 + math.exp(value[target] - value[row]))
        sums[target][row] += share * sizes[row]
        sums[target][target] += (2 - share - 1) * sizes[target]
        totals[target] += sizes[row]
    weights = np.array([sums[row] / totals[row] for row in stay])
    return behind_prefix(look, (weights, stay, [float(totals[row]) for row in stay]))


def flowcut_score(look: Any) -> list[float]:
    prefix, value = look.prefix, array(look.value)
    strength = np.abs(value.mean(0)[prefix:]).sum(1)
    if prefix:
        relevance = np.array(importance(look))
        meaning = np.mean([softmax(head @ head[0]) for head in value], axis=0)[prefix:]
        score = relevance / max(relevance.sum(), 1e-12) + meaning / max(meaning.sum(), 1e-12)
    else:
        query, key = array(look.query).mean(1), array(look.key)
        score = np.mean([softmax(k @ q) for q, k in zip(query, key, strict=True)], axis=0)
    new = score * strength
    return (new if look.running is None else 0.5 * array(look.running) + 0.5 * new).tolist()


def flowcut(look: Any, keep: int) -> Result:
    scores = flowcut_score(look) if look.running is None else array(look.running).tolist()
    return prune(look, scores, keep)


def mustdrop_windows(look: Any, keep: int) -> Result:
    x, (rows, columns) = array(look.x)[look.prefix :], look.encoder.grid
    windows, alike = [], []
    for top in range(0, rows - 2, 3):
        for left in range(0, columns - 2, 3):
            inside = [(top + i) * columns + left + j for i in range(3) for j in range(3)]
            windows.append(inside)
            alike.append(sum(cosine(x[a], x[b]) for a in inside for b in inside if a != b))
    count = (len(x) - keep) // 8
    chosen = sorted(ranked(alike)[:count])
    groups = [windows[number] for number in chosen]
    taken = {row for group in groups for row in group}
    groups += [[row] for row in range(len(x)) if row not in taken]
    return patch_groups(look, groups, [group[0] for group in groups])


def expedit(look: Any, keep: int) -> Result:
    x, (rows, columns) = array(look.x)[look.prefix :], look.encoder.grid
    down = next(d for d in range(1, rows + 1) if d * max(1, round(d * columns / rows)) == keep)
    across = keep // down
    shares = np.zeros((keep, len(x)))
    for cell in range(keep):
        top, left = divmod(cell, across)
        for row in range(top * rows // down, math.ceil((top + 1) * rows / down)):
            first, last = left * columns // across, math.ceil((left + 1) * columns / across)
            for column in range(first, last):
                shares[cell, row * columns + column] = 1
    weights = shares / shares.sum(1, keepdims=True)
    for _ in range(5):
        means = weights @ x
        logs = np.full((keep, len(x)), -np.inf)
        for patch, one in enumerate(x):
            row, column = divmod(patch, columns)
            near = [
                cell
                for cell in range(keep)
                if abs(cell // across - row * down // rows) <= 2
                and abs(cell % across - column * across // columns) <= 2
            ]
            far = np.array([-0.01 * ((one - means[cell]) ** 2).sum() for cell in near])
            logs[near, patch] = far - far.max() - math.log(np.exp(far - far.max()).sum())
        weights = np.array([softmax(cell) for cell in logs])
    counts = (np.exp(logs) @ patch_sizes(look)).tolist()
    return behind_prefix(look, (weights, [-1] * keep, counts))


STEPS: dict[str, Callable[[Any, int], Result]] = {
    "tome": tome,
    "pitome": pitome,
    "mctf": mctf,
    "evit": evit,
    "topk": topk,
    "token-transforming": token_transforming,
    "crossget-b": crossget_b,
    "flowcut": flowcut,
    "mustdrop-windows": mustdrop_windows,
    "expedit": expedit,
}
