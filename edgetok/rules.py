"""The numbers of a controller, as a manifest holds them and as any language computes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import msgspec

Finite = Annotated[float, msgspec.Meta(ge=-1e300, le=1e300)]
Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=2**40)]
Signal = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_]{1,60}\Z")]
Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Loss = Literal["wrong", "differs"]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Scorer(_Part, frozen=True):
    """A weighted sum: how likely a loss is, 0 for a scorer that knows nothing.

    Args:
        bias: where it starts.
        signals: weight of each signal.
        per_token: weight of the number of tokens of the question.
        tokens: pairs of a token id and its weight, ids ascending; a weight counts once, however
            often the question holds the token.
    """

    bias: Finite = 0.0
    signals: Annotated[dict[Signal, Finite], msgspec.Meta(max_length=64)] = {}
    per_token: Finite = 0.0
    tokens: Annotated[list[tuple[Count, Finite]], msgspec.Meta(max_length=4096)] = []

    def score(self, signals: Mapping[str, float], question: Sequence[int]) -> float:
        """The sum; infinite where a signal is missing or not finite.

        The terms are added in this order: bias, signals by name, length, tokens by id, each product
        rounded before it is added. So every machine with IEEE doubles finds the same bits.
        """
        total = self.bias
        for name in sorted(self.signals):
            value = signals.get(name, math.nan)
            if not math.isfinite(value):
                return math.inf
            total += self.signals[name] * value
        total += self.per_token * len(question)
        asked = set(question)
        for token, weight in self.tokens:
            total += weight if token in asked else 0.0
        return total


class Rule(_Part, frozen=True):
    """One rung: try it where `enter` scores no more than a limit, and take its answer where
    `accept`, which also sees how sure the answer is, does.
    """

    budget: Positive
    enter: Scorer
    enter_at_most: Finite
    accept: Scorer
    accept_at_most: Finite


class Thumbnail(_Part, frozen=True):
    """How many visual tokens an image is expected to need, from cells of its thumbnail.

    In the manner of KARL (the fewest tokens that do), distilled into a sum: learned are the rungs
    that this bundle's own answers needed, not the tokens that a reconstruction needs. The signal
    `names.SIGNAL_COMPLEXITY` is the sum, a base-2 logarithm of tokens. Costs as many products as
    there are weights, after a pass over the pixels (`control.thumbnail`).

    Args:
        cells: of the thumbnail, a side.
        bias: where the sum starts.
        weights: of the cells' mean brightness, row by row, then of their standard deviations.
    """

    cells: Annotated[int, msgspec.Meta(ge=1, le=16)]
    bias: Finite
    weights: Annotated[list[Finite], msgspec.Meta(min_length=2, max_length=512)]

    def complexity(self, cells: Sequence[float]) -> float:
        """The sum, its terms added in order; infinite where a number is missing or not finite."""
        if len(cells) != len(self.weights):
            return math.inf
        total = self.bias
        for weight, value in zip(self.weights, cells, strict=True):
            total += weight * value
        return total if math.isfinite(total) else math.inf


class Certificate(_Part, frozen=True):
    """With probability `confidence`, the expected loss of a question is at most `risk`.

    Args:
        loss: "wrong": the full rung's answer is right and this one is not; "differs": it is another
            answer than the full rung's.
        unit: what was drawn independently; of an image with several questions, their mean loss.
        units: how many of them.
        mean_loss: what was seen on them.
        p_value: how likely so little is where the risk is above the limit.
        mean_tokens: visual tokens that a question cost, those of answers not taken included.
        data_sha256: of the samples and their answers.
        bundle_sha256: of the manifest without its controller.
        flavour: of the graphs that answered.
        differs: with the same confidence, the share of answers that are others than the full
            rung's is at most this; audits are held against it.
    """

    risk: Share
    confidence: Share
    loss: Loss
    unit: Literal["question", "image"]
    units: Positive
    mean_loss: Annotated[float, msgspec.Meta(ge=0, le=1)]
    p_value: Annotated[float, msgspec.Meta(ge=0, le=1)]
    mean_tokens: Annotated[float, msgspec.Meta(ge=0, le=1e9)]
    data_sha256: Digest
    bundle_sha256: Digest
    flavour: Literal["ort", "portable"]
    differs: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None


class Case(_Part, frozen=True):
    """A decision that every reader must repeat: the rungs tried until an answer is taken.

    Args:
        answers: per rung tried, the signals of its answer.
    """

    signals: dict[Signal, Finite]
    question: Annotated[list[Count], msgspec.Meta(max_length=4096)]
    answers: Annotated[list[dict[Signal, Finite]], msgspec.Meta(max_length=64)]
    budgets: Annotated[list[Positive], msgspec.Meta(min_length=1, max_length=64)]


class Controller(_Part, frozen=True):
    """Rungs to try, smallest first; where none is entered or taken, the full rung answers.

    Args:
        thumbnail: gives the rules a signal beside those of the tower; None if none of them asks.
    """

    rules: Annotated[list[Rule], msgspec.Meta(max_length=64)]
    full: Positive
    certificate: Certificate
    cases: Annotated[list[Case], msgspec.Meta(max_length=64)]
    thumbnail: Thumbnail | None = None
