"""From logits to the next token: the largest one, or a seeded draw from the likeliest ones.

The C library draws the same tokens and is as sure of them, to the last bit: everything here is made
of single operations, which IEEE 754 rounds alike everywhere, and added up in an order that is told.
NumPy's own `exp` and `sum` differ from one processor to another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgetok.bundle.manifest import Generation
from edgetok.errors import UsageError
from edgetok.runtimes.text.processors import ban, find_repeating, keep_likeliest, penalize

Logits = NDArray[np.float32]
Probabilities = NDArray[np.float64]

_BLOCK, _LANES = 1 << 14, 64  # a block stays in a core's cache; see `add_up`
_LOG2_E, _LN_2 = 1.4426950408889634, 0.6931471805599453
_TAYLOR = tuple(1 / math.factorial(k) for k in range(9, -1, -1))  # right to 1e-11
_LEAST = -708.0  # where 2 ** x still has all of its bits
_FROM_CHECKPOINT = (
    "top_p",
    "top_k",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "min_new_tokens",
)
_ROUNDING = 1.5 * 2.0**52  # added, it leaves the nearest integer in the lowest bits


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. Temperature 0 takes the likeliest one.

    Args:
        temperature: above 1 flattens the distribution, below 1 sharpens it.
        top_p: draw only among the likeliest tokens that together hold this probability.
        seed: the same seed draws the same tokens.
        top_k: draw only among so many of the likeliest tokens; 0 for all.
        repetition_penalty, no_repeat_ngram_size, min_new_tokens: see `bundle.manifest.Generation`.
        asked: what else the checkpoint asks for.

    None takes what the checkpoint asks for.

    Raises:
        UsageError: for values that are out of range.
    """

    temperature: float = 0.0
    top_p: float | None = None
    seed: int = 0
    top_k: int | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    min_new_tokens: int | None = None
    asked: Generation = field(default_factory=Generation)

    def __post_init__(self) -> None:
        for name in _FROM_CHECKPOINT:
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(self.asked, name))
        self._require_in_range()

    def _require_in_range(self) -> None:
        if not (self.temperature >= 0 and np.isfinite(self.temperature)):
            raise UsageError(f"temperature {self.temperature} is outside 0..inf; 0 is greedy")
        if not 0 < self.top_p <= 1:  # type: ignore[operator]
            raise UsageError(f"top_p {self.top_p} is outside 0..1; 1 draws among all tokens")
        penalty = self.repetition_penalty
        if not 0 < penalty <= 1e6:  # type: ignore[operator]
            raise UsageError(f"repetition_penalty {penalty} is not above 0, or above 1e6; 1: none")
        for name in ("top_k", "no_repeat_ngram_size", "min_new_tokens"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} {getattr(self, name)} is negative; 0 is none")
        if self.seed < 0:
            raise UsageError(f"seed {self.seed} is negative; use 0 or more")

    def sampler(self, prompt: Sequence[int] = (), stop_ids: Sequence[int] = ()) -> Sampler:
        """What chooses the tokens of one answer to these ids."""
        return Sampler(self, prompt, stop_ids)


class Sampler:
    """Chooses the tokens of one answer; its random state is its own.

    Args:
        sampling: how.
        prompt: ids before the answer, those of the image among them.
        stop_ids: end an answer.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int], stop_ids: Sequence[int]) -> None:
        self._sampling = sampling
        self._seen, self._begin, self._stop_ids = list(prompt), len(prompt), stop_ids
        self._generator = np.random.Generator(np.random.PCG64(sampling.seed))

    def __call__(self, logits: Logits) -> int:
        """The next token's id, from logits [W]."""
        token = self._choose(self.process(logits))
        self._seen.append(token)
        return token

    def process(self, logits: Logits) -> Logits:
        """Logits [W] without what is held back, a copy."""
        own, asked = self._sampling, self._sampling.asked
        scores, made = logits.copy(), len(self._seen) - self._begin
        if own.repetition_penalty != 1:
            penalize(scores, self._seen, own.repetition_penalty)  # type: ignore[arg-type]
        if own.no_repeat_ngram_size:
            ban(scores, find_repeating(self._seen, own.no_repeat_ngram_size))
        if len(self._seen) < asked.min_length or made < own.min_new_tokens:  # type: ignore[operator]
            ban(scores, self._stop_ids)
        ban(scores, asked.suppress_ids)
        if made == 0:
            ban(scores, asked.begin_suppress_ids)
        return scores

    def _choose(self, scores: Logits) -> int:
        own = self._sampling
        if own.temperature == 0 or np.isneginf(scores.max()):
            return greedy(scores)
        if own.top_k:
            keep_likeliest(scores, own.top_k)
        probabilities = softmax(scores, own.temperature)
        probabilities[np.isneginf(scores)] = 0
        return draw(nucleus(probabilities, own.top_p), self._generator.random())  # type: ignore[arg-type]


def greedy(logits: Logits) -> int:
    """The id of the largest logit; ties go to the lower id."""
    return int(np.argmax(logits))


def softmax(logits: Logits, temperature: float = 1.0) -> Probabilities:
    """Probabilities [W] of logits [W], in float64 so that they add up to 1."""
    peak = float(logits.max())
    starts = range(0, len(logits), _BLOCK)
    with np.errstate(over="ignore"):  # what is far below the peak may be infinitely so
        blocks = [_exponential((_block(logits, at) - peak) / temperature) for at in starts]
    weights = np.concatenate(blocks)
    return np.asarray(weights / add_up(weights))


def nucleus(probabilities: Probabilities, top_p: float) -> Probabilities:
    """Keep the fewest likeliest tokens that hold at least `top_p`; the rest get 0.

    >>> nucleus(np.array([0.5, 0.3, 0.2]), 0.6)
    array([0.625, 0.375, 0.   ])
    """
    if top_p >= 1:
        return probabilities
    order = np.argsort(-probabilities, kind="stable")
    kept = order[: 1 + np.searchsorted(np.cumsum(probabilities[order]), top_p)]
    reduced = np.zeros_like(probabilities)
    reduced[kept] = probabilities[kept]
    return np.asarray(reduced / add_up(reduced))


def draw(probabilities: Probabilities, uniform: float) -> int:
    """The token at quantile `uniform` of [0, 1); a token of probability 0 is never drawn."""
    cumulative = np.cumsum(probabilities)
    index = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    return min(index, int(np.flatnonzero(probabilities)[-1]))


def log_probability(logits: Logits, token_id: int) -> float:
    """Natural logarithm of the probability that the model gives a token, at temperature 1."""
    peak = float(logits.max())
    return float(logits[token_id]) - peak - math.log(_total(logits, peak))


def margin(logits: Logits) -> float:
    """Probability of the likeliest token minus that of the second; 0 unsure, 1 certain."""
    if logits.size < 2:
        return 1.0
    second, peak = np.partition(logits, -2)[-2:].astype(np.float64)
    below = _exponential(np.array([second - peak]))[0]
    return float((1 - below) / _total(logits, float(peak)))


def add_up(values: Probabilities) -> float:
    """The sum: blocks of 16,384, in each of which 64 sums take every 64th value in turn.

    Adding up row by row is as quick as `sum`, whose order is nobody's business but NumPy's.
    """
    lanes = np.zeros(_LANES)
    for at in range(0, len(values), _BLOCK):
        lanes += _add_lanes(values[at : at + _BLOCK])
    return float(np.cumsum(lanes)[-1])


def _total(logits: Logits, peak: float) -> float:
    """What `softmax` divides by at temperature 1, without keeping what it adds up."""
    lanes = np.zeros(_LANES)
    for at in range(0, len(logits), _BLOCK):
        lanes += _add_lanes(_exponential(_block(logits, at) - peak))
    return float(np.cumsum(lanes)[-1])


def _block(logits: Logits, at: int) -> Probabilities:
    return logits[at : at + _BLOCK].astype(np.float64)


def _add_lanes(block: Probabilities) -> Probabilities:
    whole = len(block) - len(block) % _LANES
    lanes = np.add.reduce(block[:whole].reshape(-1, _LANES), axis=0)
    lanes[: len(block) - whole] += block[whole:]
    return np.asarray(lanes)


def _exponential(below: Probabilities) -> Probabilities:
    """e to the power of numbers that are not above 0; what is below -708 counts as that."""
    below = np.maximum(below, _LEAST)
    shifted = below * _LOG2_E + _ROUNDING
    rest = below - (shifted - _ROUNDING) * _LN_2
    power = rest * _TAYLOR[0]
    for coefficient in _TAYLOR[1:-1]:
        power += coefficient
        power *= rest
    power += _TAYLOR[-1]
    power *= ((shifted.view(np.int64) + 1023) << 52).view(np.float64)  # 2 ** the integer
    return power
