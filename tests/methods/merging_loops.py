"""The methods that merge, as `loops.py` has those that select."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from loops import Array, Result, array, coarse, cosine, cosines, highest, quarters_of, ranked


def mix(features: Any, groups: Sequence[dict[int, float]], indices: list[int]) -> Result:
    """Sums of weighted rows; a row is shared out among its groups by its weights."""
    x = array(features.x)
    rows = [sum((w * x[i] for i, w in group.items()), np.zeros(x.shape[1])) for group in groups]
    whole = [sum(group.get(i, 0.0) for group in groups) for i in range(len(x))]
    sizes = [sum(w / whole[i] for i, w in group.items() if whole[i]) for group in groups]
    return np.stack(rows), indices, sizes


def mean_of(group: Sequence[int]) -> dict[int, float]:
    return {i: 1 / len(group) for i in group}


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


def visiondrop(features: Any, k: int) -> Result:
    return visionzip(features, k, contextual=max(1, round(k / 8)))


def vmtc(features: Any, k: int) -> Result:
    x, score = array(features.x), features.cls_attention.tolist()
    clusters = max(1, round(10 * k / 64))
    kept = highest(score, k - clusters)
    rest = [i for i in range(len(x)) if i not in kept]
    means = [{rest[c * max(1, len(rest) // clusters)]: 1.0} for c in range(clusters)]
    for _ in range(3):
        middles = np.stack([sum(w * x[i] for i, w in mean.items()) for mean in means])
        near = cosines(x[rest], middles)
        joined = [
            [i for i, row in zip(rest, near, strict=True) if row.index(max(row)) == c]
            for c in range(clusters)
        ]
        for c, group in enumerate(joined):
            weights = {i: max(score[i], 1e-6) for i in group}
            total = sum(weights.values())
            means[c] = {i: w / total for i, w in weights.items()} if group else means[c]
    singles = [{i: 1.0} for i in kept]
    return mix(features, [*singles, *means], [*kept, *[-1] * clusters])


def around_centres(features: Any, centres: list[int], kept: Sequence[int] = ()) -> Result:
    c = features.probe("next_wide_attention").tolist()
    keys = array(features.probe("next_keys"))
    groups: list[dict[int, float]] = [{i: 1.0} for i in kept]
    for centre in centres:
        others = [i for i in range(len(c)) if i != centre and i not in kept]
        others.sort(key=lambda i: (-coarse(cosine(keys[centre], keys[i])), i))
        groups.append({centre: 1.0} | {i: c[i] for i in others[:32]})
    rest = {i: c[i] for i in range(len(c)) if i not in centres and i not in kept}
    return mix(features, [*groups, rest], [*kept, *centres, -1])


def prumerge(features: Any, k: int) -> Result:
    ranking = ranked(features.probe("next_wide_attention").tolist())
    return around_centres(features, ranking[: k - 1])


def prumerge_plus(features: Any, k: int) -> Result:
    n, count = len(features.x), k - 1 - round((k - 1) / 4)
    steps = [s for s in range(max(1, round(n / count)), n + 1) if len(range(0, n - 1, s)) < k]
    centres = set(range(0, n - 1, steps[0]))
    for i in ranked(features.probe("next_wide_attention").tolist()):
        if len(centres) < k - 1:
            centres.add(i)
    return around_centres(features, sorted(centres))


def recoverable(features: Any, k: int) -> Result:
    ranking = ranked(features.probe("next_wide_attention").tolist())
    recovered = max(1, round(0.15 * k))
    count = k - 1 - recovered
    return around_centres(features, ranking[count : k - 1], sorted(ranking[:count]))


def llavolta(features: Any, k: int) -> Result:
    stride = len(features.x) // k
    groups = [mean_of(range(i * stride, (i + 1) * stride)) for i in range(k)]
    return mix(features, groups, [-1] * k)


def vflowopt(features: Any, k: int) -> Result:
    score, quarters = features.probe("global_attention").tolist(), quarters_of(features.grid)
    weakest = {min(quarter, key=lambda i: (score[i], i)) for quarter in quarters}
    kept = [i for i in ranked(score) if i not in weakest][: k - 4]
    made = {i: {i: 1.0} for i in kept}
    for quarter in quarters:
        left = [i for i in quarter if i not in kept]
        weights = {i: max(score[i], 1e-6) for i in left}
        total = sum(weights.values())
        best = max(left, key=lambda i: (score[i], -i))
        made[best] = {i: w / total for i, w in weights.items()}
    return mix(features, [made[i] for i in sorted(made)], sorted(made))


def halve(
    features: Any, k: int, metric: Array, penalty: Sequence[float] | None, by_size: bool
) -> Result:
    """Tokens as (centre, weights of rows, rows it stands for), merged in rounds."""
    made = [(i, {i: 1.0}, 1) for i in range(len(metric))]

    def of(weights: dict[int, float], values: Any) -> Any:
        return sum(w * values[i] for i, w in weights.items())

    while len(made) > k:
        even, odd = made[::2], made[1::2]
        r = min(len(odd), len(made) - k)
        edges = []
        for _, own, _ in even:
            row = [coarse(cosine(of(own, metric), of(w, metric))) for _, w, _ in odd]
            edges.append([coarse(e - of(own, penalty)) for e in row] if penalty else row)
        order = ranked([max(row) for row in edges])
        target = {s: edges[s].index(max(edges[s])) for s in order[:r]}
        merged = []
        for d, (centre, own, size) in enumerate(odd):
            parts = [(own, size)] + [even[s][1:] for s in sorted(target) if target[s] == d]
            shares = [s if by_size else 1 for _, s in parts]
            joined: dict[int, float] = {}
            for (weights, _), share in zip(parts, shares, strict=True):
                for i, w in weights.items():
                    joined[i] = joined.get(i, 0.0) + w * share / sum(shares)
            merged.append((centre, joined, sum(s for _, s in parts)))
        made = [even[s] for s in order[r:]] + merged
    x = array(features.x)
    return np.stack([of(w, x) for _, w, _ in made]), [c for c, _, _ in made], [s for *_, s in made]


def aim(features: Any, k: int) -> Result:
    return halve(features, k, array(features.x), None, by_size=False)


def turbo(features: Any, k: int) -> Result:
    penalty = [30 * c for c in features.cls_attention.tolist()]
    return halve(features, k, array(features.keys), penalty, by_size=True)


def crossget(features: Any, k: int) -> Result:
    """Tokens as (centre, weights of rows, rows it stands for), merged in rounds."""
    keys = array(features.keys)
    received = [min(max(r, 0.0), 1.0) for r in features.received_attention.tolist()]
    made = [(i, {i: 1.0}, 1) for i in range(len(keys))]
    while len(made) > k:
        metric = [sum(w * keys[i] for i, w in own.items()) for _, own, _ in made]
        matter = [sum(w * received[i] for i, w in own.items()) for _, own, _ in made]
        made = merge_round(
            made, cosines(np.stack(metric)), matter, min(len(made) // 2, len(made) - k)
        )
    x = array(features.x)
    rows = np.stack([sum(w * x[i] for i, w in own.items()) for _, own, _ in made])
    return rows, [c for c, _, _ in made], [float(s) for *_, s in made]


def merge_round(
    made: list[Any], similar: list[list[float]], matter: list[float], r: int
) -> list[Any]:
    everyone = range(len(made))
    best = [max(similar[i][j] for j in everyone if j != i) for i in everyone]
    order = ranked(best)
    priority = {order[-1]: float("-inf")}
    for place, i in enumerate(order[:-1]):
        partner = max(similar[i][j] for j in order[place + 1 :])
        priority[i] = round((partner - matter[i]) * 65536) / 65536
    sources = ranked([priority[i] for i in everyone])[:r]
    stay = [i for i in everyone if i not in sources]
    joined: dict[int, list[int]] = {i: [] for i in stay}
    for i in sorted(sources):
        joined[max(stay, key=lambda j: (similar[i][j], -j))].append(i)
    return [merge_into(made, i, joined[i], matter) for i in stay]


def merge_into(made: list[Any], i: int, sources: list[int], matter: list[float]) -> Any:
    centre, own, size = made[i]
    whole = size + sum(made[j][2] for j in sources)
    half = [1 / (1 + np.exp(matter[i] - matter[j])) for j in sources]  # a source's part of a pair
    factor = max(1 + sum(2 * (1 - h) - 1 for h in half), 1e-6)
    weights = {row: w * factor * size / whole for row, w in own.items()}
    for j, h in zip(sources, half, strict=True):
        weights |= {row: w * 2 * h * made[j][2] / whole for row, w in made[j][1].items()}
    return centre, weights, whole


REFERENCES: dict[str, Callable[[Any, int], Result]] = {
    "visionzip": visionzip,
    "visiondrop": visiondrop,
    "vmtc": vmtc,
    "prumerge": prumerge,
    "prumerge+": prumerge_plus,
    "recoverable": recoverable,
    "llavolta": llavolta,
    "vflowopt": vflowopt,
    "aim": aim,
    "turbo": turbo,
    "crossget": crossget,
}
