"""From logits to the next token: the largest one, or a seeded draw from the likeliest ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgetok.errors import UsageError

Logits = NDArray[np.float32]
Probabilities = NDArray[np.float64]
Sampler = Callable[[Logits], int]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. Temperature 0 takes the likeliest one.

    Args:
        temperature: above 1 flattens the distribution, below 1 sharpens it.
        top_p: draw only among the likeliest tokens that together hold this probability.
        seed: the same seed draws the same tokens.

    Raises:
        UsageError: for values outside temperature >= 0, 0 < top_p <= 1, seed >= 0.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.temperature >= 0 and np.isfinite(self.temperature)):
            raise UsageError(f"temperature {self.temperature} is outside 0..inf; 0 is greedy")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p {self.top_p} is outside 0..1; 1 draws among all tokens")
        if self.seed < 0:
            raise UsageError(f"seed {self.seed} is negative; use 0 or more")

    def sampler(self) -> Sampler:
        """A function from logits [W] to a token id; its random state is its own."""
        if self.temperature == 0:
            return greedy
        generator = np.random.Generator(np.random.PCG64(self.seed))
        return lambda logits: draw(
            nucleus(softmax(logits, self.temperature), self.top_p), generator.random()
        )


def greedy(logits: Logits) -> int:
    """The id of the largest logit; ties go to the lower id."""
    return int(np.argmax(logits))


def softmax(logits: Logits, temperature: float = 1.0) -> Probabilities:
    """Probabilities [W] of logits [W], summed in float64 so that they add up to 1."""
    scaled = (logits.astype(np.float64) - logits.max()) / temperature
    weights = np.exp(scaled)
    return np.asarray(weights / weights.sum())


def nucleus(probabilities: Probabilities, top_p: float) -> Probabilities:
    """Keep the fewest likeliest tokens that hold at least `top_p`; the rest get 0.

    >>> nucleus(np.array([0.5, 0.3, 0.2]), 0.6)
    array([0.625, 0.375, 0.   ])
    """
    if top_p >= 1:
        return probabilities
    order = np.argsort(-probabilities, kind="stable")
    held_before = np.cumsum(probabilities[order]) - probabilities[order]
    kept = order[held_before < top_p]
    reduced = np.zeros_like(probabilities)
    reduced[kept] = probabilities[kept]
    return np.asarray(reduced / reduced.sum())


def draw(probabilities: Probabilities, uniform: float) -> int:
    """The token at quantile `uniform` of [0, 1); a token of probability 0 is never drawn."""
    cumulative = np.cumsum(probabilities)
    index = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    return min(index, int(np.flatnonzero(probabilities)[-1]))


def log_probability(logits: Logits, token_id: int) -> float:
    """Natural logarithm of the probability that the model gives a token, at temperature 1."""
    peak = float(logits.max())
    return float(logits[token_id]) - peak - float(np.log(np.exp(logits - peak).sum()))


def margin(logits: Logits) -> float:
    """Probability of the likeliest token minus that of the second; 0 unsure, 1 certain."""
    if logits.size < 2:
        return 1.0
    second, first = np.partition(softmax(logits), -2)[-2:]
    return float(first - second)
