"""Sharing one budget of visual tokens among several images, or over a stream of requests.

Experimental: no verb uses it (docs/stability.md).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgetok.errors import UsageError
from edgetok.rules import Controller

Qualities = Mapping[int, float]  # how good the answer is expected to be, by visual tokens


def share_tokens(images: Sequence[Qualities], pool: int) -> tuple[int, ...]:
    """The rung of each image, so that the sum of qualities is large within a pool of tokens.

    A multiple-choice knapsack by its Lagrangian: of each image only the rungs on the upper concave
    hull of (tokens, quality) count, and upgrades are bought in the order of what a token gains,
    until the pool is spent. That is the best choice wherever the pool ends with an upgrade; else
    the best one is better by less than the first upgrade that did not fit. Where qualities are
    equal the fewer tokens win. Costs n log n for n rungs in all.

    Args:
        images: per image the quality of each rung, such as the probability that nothing is lost.
        pool: visual tokens for all images together.

    Raises:
        UsageError: if an image has no rung, a number is not finite, or the smallest rungs together
            exceed the pool.

    >>> share_tokens([{16: 0.5, 64: 0.9}, {16: 0.8, 64: 0.9}], 80)
    (64, 16)
    """
    hulls = [_hull(qualities, number) for number, qualities in enumerate(images)]
    left = pool - sum(hull[0][0] for hull in hulls)
    if left < 0:
        raise UsageError(
            f"{len(hulls)} images need {pool - left} visual tokens on their smallest rungs, and "
            f"the pool has {pool}; enlarge it, or ask about fewer images at once"
        )
    chosen = [0] * len(hulls)
    waiting = [_offer(hull, 0, image) for image, hull in enumerate(hulls) if len(hull) > 1]
    heapq.heapify(waiting)
    while waiting:
        _, image = heapq.heappop(waiting)
        hull, at = hulls[image], chosen[image]
        price = hull[at + 1][0] - hull[at][0]
        if price > left:
            continue  # its later upgrades gain less per token; those of other images may fit
        left -= price
        chosen[image] += 1
        if at + 2 < len(hull):
            heapq.heappush(waiting, _offer(hull, at + 1, image))
    return tuple(hull[at][0] for hull, at in zip(hulls, chosen, strict=True))


@dataclass(slots=True)
class Price:
    """A stream's budget: what a token costs at present, so that a mean number is spent.

    Each request takes the rung with the highest quality less price times tokens. A mean above the
    target raises the price, one below lowers it: dual ascent, whose mean approaches the target as
    one over the number of requests, whatever the requests are like.

    Args:
        mean_tokens: per request, over time.
        step: how far one request moves the price: per token of distance, in quality per token.

    Raises:
        UsageError: if one is not a positive number.
    """

    mean_tokens: float
    step: float = 1e-6
    per_token: float = 0.0

    def __post_init__(self) -> None:
        for what, value in (("mean", self.mean_tokens), ("step", self.step)):
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"a {what} of {value} is no positive number")

    def spend(self, qualities: Qualities) -> int:
        """The rung of the next request; errors as in `share_tokens`."""
        hull = _hull(qualities, 0)
        tokens, _ = max(hull, key=lambda rung: (rung[1] - self.per_token * rung[0], -rung[0]))
        moved = self.per_token + self.step * (tokens - self.mean_tokens)
        self.per_token = max(0.0, moved)
        return tokens


def predict_qualities(
    controller: Controller, signals: Mapping[str, float], question: Sequence[int]
) -> dict[int, float]:
    """The probability that a rung loses nothing, as the controller's scorers see it before asking.

    Scores of logistic regressions are logarithms of odds. The full rung loses nothing. A rung
    whose signals are damaged is worth nothing.
    """
    found = {controller.full: 1.0}
    for rule in controller.rules:
        score = rule.enter.score(signals, question)
        found[rule.budget] = 1 / (1 + math.exp(score)) if score < 700 else 0.0
    return found


def _hull(qualities: Qualities, number: int) -> list[tuple[int, float]]:
    """The rungs on the upper concave hull, from the smallest to the best, each better than before.

    Both ends belong to it: the fewest tokens, which must be spent, and the highest quality.
    """
    if not qualities:
        raise UsageError(f"image {number} has no rung to choose from")
    for tokens, quality in qualities.items():
        if tokens < 0 or not math.isfinite(quality):
            raise UsageError(f"image {number}: {tokens} tokens with quality {quality} are no rung")
    hull: list[tuple[int, float]] = []
    for rung in sorted(qualities.items()):
        if hull and rung[1] <= hull[-1][1]:
            continue
        while len(hull) > 1 and _gain(hull[-2], hull[-1]) <= _gain(hull[-1], rung):
            hull.pop()
        hull.append(rung)
    return hull


def _gain(low: tuple[int, float], high: tuple[int, float]) -> float:
    """Quality that a token of an upgrade buys."""
    return (high[1] - low[1]) / (high[0] - low[0])


def _offer(hull: list[tuple[int, float]], at: int, image: int) -> tuple[float, int]:
    return -_gain(hull[at], hull[at + 1]), image
