"""The papers' own procedures in plain loops, on whole attention maps without padding."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Seen:
    """What a cut sees: maps [heads, n, n] of two layers, and rows; visual tokens from `start`."""

    before: Array
    behind: Array
    keys: Array  # [key/value heads, n, H], of the layer behind the cut
    hidden: Array  # [n, D]
    entered: Array  # [n0, D], as rows entered the decoder: `gone` visual rows more
    gates: Array  # [n, F]
    keys_before: Array  # [key/value heads, n, H], of the layer in front of the cut
    places: Array  # [n, P], what rotary positions make of rows of ones
    norm: Array  # [D], weights of the last norm
    start: int
    count: int

    @property
    def visual(self) -> range:
        return range(self.start, self.start + self.count)

    @property
    def asking(self) -> range:
        """Text rows behind the image."""
        return range(self.visual.stop, len(self.hidden))

    @property
    def last(self) -> int:
        return len(self.hidden) - 1


def head_mean(maps: Array, row: int, column: int) -> float:
    return sum(float(one[row, column]) for one in maps) / len(maps)


def best(scores: list[float], keep: int) -> list[int]:
    """The `keep` highest, ties to the lower index, in order."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return sorted(order[:keep])


def fastv(seen: Seen, keep: int) -> list[int]:
    return best([head_mean(seen.before, seen.last, j) for j in seen.visual], keep)


def pyramiddrop(seen: Seen, keep: int) -> list[int]:
    return best([head_mean(seen.behind, seen.last, j) for j in seen.visual], keep)


def find_raters(seen: Seen) -> list[int]:
    gone = len(seen.entered) - len(seen.hidden)
    images = seen.entered[seen.start : seen.start + seen.count + gone]
    texts = seen.entered[seen.start + seen.count + gone :]
    relevance = [0.0] * len(texts)
    for image in images:
        logits = [float(image @ text) for text in texts]
        total = sum(math.exp(x - max(logits)) for x in logits)
        for t, x in enumerate(logits):
            relevance[t] += math.exp(x - max(logits)) / total / len(images)
    mean = sum(relevance) / len(relevance)
    return [row for row, r in zip(seen.asking, relevance, strict=True) if r >= mean]


def sparsevlm(seen: Seen, keep: int) -> tuple[list[int], Array]:
    """Kept tokens and centres of clusters, and what each is made of, [keep, K]."""
    raters, k = find_raters(seen), seen.count
    scores = [sum(head_mean(seen.before, t, j) for t in raters) / len(raters) for j in seen.visual]
    splits = [(n, (int(0.3 * (k - n)) + 1) // 10 + 1) for n in range(1, keep)]
    kept, n_clusters = next(((n, c) for n, c in splits if n + c == keep), (keep, 0))
    stay = best(scores, kept)
    weights = np.zeros((keep, k))
    weights[range(kept), stay] = 1
    if not n_clusters:
        return stay, weights
    rest = sorted((j for j in range(k) if j not in stay), key=lambda j: (-scores[j], j))
    rest = rest[: int(0.3 * (k - kept)) + 1]
    x = seen.hidden[[seen.start + j for j in rest]]
    apart = [[float(np.linalg.norm(a - b)) / math.sqrt(len(a)) for b in x] for a in x]
    near = [sorted(row)[:n_clusters] for row in apart]
    density = [math.exp(-sum(d * d for d in row) / n_clusters) for row in near]
    peaks = [
        min((row[j] for j, d in enumerate(density) if d > own), default=max(map(max, apart))) * own
        for row, own in zip(apart, density, strict=True)
    ]
    centres = sorted(range(len(rest)), key=lambda i: (-peaks[i], i))[:n_clusters]
    for i, token in enumerate(rest):
        away = [apart[c][i] for c in centres]
        group = centres.index(i) if i in centres else away.index(min(away))
        weights[kept + group, token] = 1
    return [*stay, *(rest[c] for c in centres)], weights / weights.sum(1, keepdims=True)


def sparsevlm_v2(seen: Seen, keep: int) -> list[int]:
    raters = find_raters(seen)
    by_head = [
        [
            sum(one[t, j] / float(seen.places[t] @ seen.places[j]) for t in raters)
            for j in seen.visual
        ]
        for one in seen.before
    ]
    heads = sorted(range(len(by_head)), key=lambda h: -sum(by_head[h]))[:14]
    return best([sum(by_head[h][i] for h in heads) for i in range(seen.count)], keep)


def dart(seen: Seen, keep: int) -> list[int]:
    length = np.abs(seen.keys_before).sum((0, 2))
    own = best([float(length[j]) for j in seen.visual], min(4, keep))
    asked = best([float(length[t]) for t in seen.asking], min(4, len(seen.asking)))
    pivots = [*(seen.start + j for j in own), *(seen.asking[t] for t in asked)]
    pivots += [seen.asking[asked[0]]] * (8 - len(pivots))
    kept, more = list(own), keep - len(own)
    for number, pivot in enumerate(pivots):
        left = [j for j in range(seen.count) if j not in kept]
        a = seen.hidden[pivot] * seen.norm
        rows = [seen.hidden[seen.start + j] * seen.norm for j in left]
        alike = [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for b in rows]
        count = more // 8 + (number < more % 8)
        kept += [left[i] for i in best([-x for x in alike], count)]
    return sorted(kept)


def visiondrop(seen: Seen, keep: int) -> tuple[list[int], Array]:
    """Kept or centred tokens, and what each is made of, [keep, K]."""
    received = [sum(head_mean(seen.behind, i, j) for i in seen.visual) for j in seen.visual]
    n_targets = max(1, round(0.15 * keep))
    dominant = best(received, keep - n_targets)
    rest = [j for j in range(seen.count) if j not in dominant]
    step = max(1, len(rest) // n_targets)
    targets = rest[: step * n_targets : step]
    key = seen.keys.mean(0)[seen.start : seen.start + seen.count]
    weights = np.zeros((keep, seen.count))
    for place, token in enumerate(dominant):
        weights[place, token] = 1
    groups: list[list[int]] = [[] for _ in targets]
    for token in rest:
        if token in targets:
            continue
        alike = [
            float(key[token] @ key[t]) / (np.linalg.norm(key[token]) * np.linalg.norm(key[t]))
            for t in targets
        ]
        groups[alike.index(max(alike))].append(token)
    for place, (target, members) in enumerate(zip(targets, groups, strict=True), len(dominant)):
        weights[place, target] = 1
        for token in members:
            weights[place, token] = 1 / len(members)
    return [*dominant, *targets], weights


def mustdrop(seen: Seen, keep: int) -> list[int]:
    """By the paper's double threshold, lowered for both alike until `keep` tokens hold."""
    a = [[head_mean(seen.before, t, j) for j in seen.visual] for t in seen.asking]
    total = sum(sum(row) for row in a)

    def stay(scale: float) -> list[int]:
        return [
            j
            for j in range(seen.count)
            if not (sum(row[j] for row in a) < 1e-3 * scale * total)
            or not (max(row[j] for row in a) < 1e-3 * scale)
        ]

    low, high = 0.0, 1e9
    for _ in range(400):
        middle = (low + high) / 2
        low, high = (middle, high) if len(stay(middle)) > keep else (low, middle)
        if len(stay(middle)) == keep:
            return stay(middle)
    raise AssertionError("no threshold leaves so many")


def aim(seen: Seen, keep: int) -> list[int]:
    n, squares = len(seen.hidden), np.zeros(len(seen.hidden))
    for one in seen.before:
        moves = np.zeros((n, n))
        for i in range(n):
            logits = [math.log(p) / 0.1 if p > 0 else -math.inf for p in one[i]]
            top = max(logits)
            weights = [math.exp(x - top) for x in logits]
            moves[i] = np.array(weights) / sum(weights)
        rank = np.full(n, 1 / n)
        for _ in range(5):
            rank = np.array([sum(rank[i] * moves[i, j] for i in range(n)) for j in range(n)])
        squares += rank**2
    return best([math.sqrt(squares[j] / len(seen.before)) for j in seen.visual], keep)


def corematching(seen: Seen, keep: int) -> list[int]:
    probe = [g > 0 for g in seen.gates[seen.last]]
    return best(
        [
            float(sum(1 for g, p in zip(seen.gates[j], probe, strict=True) if g > 0 and p))
            for j in seen.visual
        ],
        keep,
    )


def catp(seen: Seen, keep: int) -> list[int]:
    rise = [
        max(0.0, head_mean(seen.behind, seen.last, j) - head_mean(seen.before, seen.last, j))
        for j in seen.visual
    ]
    text = seen.hidden[list(seen.asking)].mean(0)
    scores = []
    for j, more in zip(seen.visual, rise, strict=True):
        lengths = float(np.linalg.norm(seen.hidden[j]) * np.linalg.norm(text))
        scores.append(more / max(rise) + 0.6 * float(seen.hidden[j] @ text) / lengths)
    return best(scores, keep)


def atp_llava(seen: Seen, keep: int) -> list[int]:
    own = [sum(head_mean(seen.before, i, j) for i in seen.visual) for j in seen.visual]
    asked = [sum(head_mean(seen.before, i, j) for i in seen.asking) for j in seen.visual]
    n_even = int(0.25 * keep)
    even = [i * seen.count // n_even for i in range(n_even)]
    scores = [a / max(own) + b / max(asked) for a, b in zip(own, asked, strict=True)]
    return best([1e9 if j in even else s for j, s in enumerate(scores)], keep)


def vasparse(seen: Seen, keep: int) -> list[int]:
    looks = [sum(head_mean(seen.before, i, j) for j in seen.visual) for i in seen.visual]
    total = sum(math.exp(x) for x in looks)
    scores = [
        head_mean(seen.before, seen.last, j) ** 2 + 0.1 * math.exp(x) / total
        for j, x in zip(seen.visual, looks, strict=True)
    ]
    return best(scores, keep)


def stride(seen: Seen, keep: int) -> list[int]:
    return [i * seen.count // keep for i in range(keep)]


LOOPS: dict[str, Callable[[Seen, int], list[int]]] = {
    "fastv": fastv,
    "pyramiddrop": pyramiddrop,
    "sparsevlm-v2": sparsevlm_v2,
    "dart": dart,
    "mustdrop": mustdrop,
    "aim": aim,
    "corematching": corematching,
    "catp": catp,
    "atp-llava": atp_llava,
    "adatoken-3d": fastv,
    "vasparse": vasparse,
    "stride": stride,
}
