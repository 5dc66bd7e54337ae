"""The methods that read the prompt, as `loops.py` has those that look at the picture alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from loops import Array, Result, array, cosine, prune


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
        grown = {i: residual(kernel, taken, i) for i in left}
        if max(grown.values()) > 1e-5:
            taken.append(min(i for i in left if grown[i] >= max(grown.values()) - 2e-6))
        else:
            best = max(quality[i] for i in left)
            taken.append(min(i for i in left if quality[i] >= best - 2e-6))
    return prune(features, sorted(taken))


def residual(kernel: Array, taken: list[int], i: int) -> float:
    """det(taken and i) / det(taken): what is left of a token beside those taken."""
    if not taken:
        return float(kernel[i, i])
    own = kernel[np.ix_(taken, taken)]
    across = kernel[taken, i]
    return float(kernel[i, i] - across @ np.linalg.lstsq(own, across, rcond=1e-9)[0])


REFERENCES: dict[str, Callable[[Any, int], Result]] = {
    "cdpruner": cdpruner,
}
