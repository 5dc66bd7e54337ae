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


def sparsevlm(seen: Seen, keep: int) -> list[int]:
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
    raters = [row for row, r in zip(seen.asking, relevance, strict=True) if r >= mean]
    scores = [sum(head_mean(seen.before, t, j) for t in raters) / len(raters) for j in seen.visual]
    return best(scores, keep)


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
    "sparsevlm": sparsevlm,
    "mustdrop": mustdrop,
    "aim": aim,
    "corematching": corematching,
    "catp": catp,
    "atp-llava": atp_llava,
    "adatoken-3d": fastv,
    "vasparse": vasparse,
    "stride": stride,
}
