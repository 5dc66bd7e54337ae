"""The methods that read the prompt, as `loops.py` has those that look at the picture alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from loops import Array, Result, array, coarse, cosine, cosines, highest, prune


def question(features: Any) -> Array:
    """The embeddings of the user's own text, those of the template left out."""
    rows, mask = features.probe("text_embeds"), features.probe("text_mask").tolist()
    return array(rows)[[i for i, own in enumerate(mask) if own]]


def cdpruner(features: Any, k: int) -> Result:
    """Volumes from determinants themselves, where the method decomposes the kernel step by step."""
    x, words = array(features.x), question(features)
    matter = [sum(cosine(row, word) for word in words) / max(len(words), 1) for row in x]
    spread = max(matter) - min(matter)
    quality = [(m - min(matter)) / spread if spread >= 1e-4 else 1.0 for m in matter]
    similar = np.array([[cosine(a, b) for b in x] for a in x])
    kernel = similar * np.outer(quality, quality)
    taken: list[int] = []
    while len(taken) < k:
        left = [i for i in range(len(x)) if i not in taken]
        grown = {i: round(residual(kernel, taken, i) * 2**17) for i in left}
        exhausted = max(grown.values()) <= 0
        taken.append(min(left, key=lambda i: (-quality[i] if exhausted else -grown[i], i)))
    return prune(features, sorted(taken))


def residual(kernel: Array, taken: list[int], i: int) -> float:
    """det(taken and i) / det(taken): what is left of a token beside those taken."""
    if not taken:
        return float(kernel[i, i])
    own = kernel[np.ix_(taken, taken)]
    across = kernel[taken, i]
    return float(kernel[i, i] - across @ np.linalg.lstsq(own, across, rcond=1e-9)[0])


def mmtok(features: Any, k: int) -> Result:
    x, rows, words = array(features.x), array(features.vision), question(features)
    by_words = [softmax([fine(cosine(word, row)) / 0.02 for row in x]) for word in words]
    by_patches = [softmax([fine(cosine(own, row)) / 0.2 for row in rows]) for own in rows]
    gains = [*np.array(by_words).reshape(-1, len(x)) / max(len(words), 1)]
    gains += [*(np.array(by_patches) / 2 / len(x))]
    return prune(features, cover(np.stack(gains), np.zeros(len(x)), k, slack=1e-6))


def catp(features: Any, k: int) -> Result:
    x, words = array(features.x), question(features)
    meaning = words.sum(0) / max(len(words), 1)
    suits = [0.7 * (1 + cosine(row, meaning)) / 2 for row in x]
    alike = (1 + np.array(cosines(x))) / 2
    return prune(features, cover(alike, np.array([coarse(s) for s in suits]), k, slack=0.0))


def asked(features: Any) -> list[float]:
    x, words = array(features.x), question(features)
    scale = x.shape[1] ** 0.5
    each = [softmax([fine(cosine(word, row)) * scale for row in x]) for word in words]
    return [sum(row[i] for row in each) / len(words) if len(words) else 0.0 for i in range(len(x))]


def explainability(features: Any, k: int) -> Result:
    scores = asked(features)
    best = max(scores) or 1.0
    return prune(features, highest([fine(score / best) for score in scores], k))


def cover(gains: Array, bonus: Array, k: int, slack: float) -> list[int]:
    """Facility location by the value of whole sets, computed anew for every candidate."""

    def value(chosen: list[int]) -> float:
        best = gains[:, chosen].max(1).sum() if chosen else 0.0
        return float(best + bonus[chosen].sum())

    taken: list[int] = []
    margin = slack * max(value([i]) for i in range(len(bonus)))
    while len(taken) < k:
        left = [i for i in range(len(bonus)) if i not in taken]
        raised = {i: value([*taken, i]) - value(taken) for i in left}
        # 1e-12: what subtracting two sums leaves of equal gains
        taken.append(min(i for i in left if raised[i] >= max(raised.values()) - margin - 1e-12))
    return sorted(taken)


def softmax(row: list[float]) -> Array:
    powers = np.exp(np.array(row) - max(row))
    return np.asarray(powers / powers.sum())


def fine(value: float) -> float:
    return round(value * 65536) / 65536


REFERENCES: dict[str, Callable[[Any, int], Result]] = {
    "cdpruner": cdpruner,
    "mmtok": mmtok,
    "catp": catp,
    "explainability": explainability,
}
