"""Policies: from a ladder and the signals of one input to a rung, with the reason in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from edgetok import names
from edgetok.ladder import Bucket, Ladder


@dataclass(frozen=True, slots=True)
class Decision:
    """A rung, and one sentence for people that says why.

    Args:
        review: asked how sure the answer is (`names.ANSWER_SIGNALS`), gives None to take it, or
            the rung to ask next; None where any answer is taken.
    """

    bucket: Bucket
    reason: str
    review: Callable[[Mapping[str, float]], Decision | None] | None = None


class Policy(Protocol):
    """A rule that always finds a rung of the ladder.

    `question` are the token ids of the user's own text.
    """

    def choose(
        self, ladder: Ladder, signals: Mapping[str, float], question: Sequence[int] = ()
    ) -> Decision: ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """The rung that the user asked for."""

    budget: int

    def choose(
        self, ladder: Ladder, signals: Mapping[str, float], question: Sequence[int] = ()
    ) -> Decision:
        """Raises UsageError if the ladder has no such rung."""
        return Decision(ladder.bucket(self.budget), f"{self.budget} visual tokens were asked for")


@dataclass(frozen=True, slots=True)
class Largest:
    """The rung with the most tokens: the default, which loses nothing."""

    def choose(
        self, ladder: Ladder, signals: Mapping[str, float], question: Sequence[int] = ()
    ) -> Decision:
        bucket = ladder.largest
        return Decision(bucket, f"no limit was given, so the largest rung of {bucket.budget}")


@dataclass(frozen=True, slots=True)
class Elbow:
    """The smallest rung that holds the tokens before the elbow of the CLS-similarity curve."""

    def choose(
        self, ladder: Ladder, signals: Mapping[str, float], question: Sequence[int] = ()
    ) -> Decision:
        wanted = signals.get(names.SIGNAL_ELBOW, math.nan)
        if not math.isfinite(wanted):  # a damaged signal must not cost quality
            bucket = ladder.largest
            return Decision(
                bucket, f"the image gave no elbow signal, so the largest rung of {bucket.budget}"
            )
        bucket = ladder.at_least(wanted)
        relation = (
            "the smallest rung that holds" if bucket.budget >= wanted else "the largest, below"
        )
        return Decision(
            bucket,
            f"the CLS-similarity curve bends at {wanted:.0f} tokens; "
            f"{bucket.budget} is {relation} them",
        )
