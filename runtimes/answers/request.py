"""What one answer is asked for: an image, perhaps encoded before, and checked options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edgetok import limits
from edgetok.control import (
    Certified,
    Elbow,
    Fixed,
    Largest,
    Limit,
    Pace,
    Policy,
    Steady,
)
from edgetok.errors import UsageError
from edgetok.ladder import Ladder
from edgetok.rules import Controller
from edgetok.runtimes.runtime.protocol import FloatArray, TowerOutput, VisualTokens
from edgetok.runtimes.text.sampling import Sampling

Signal = Literal["elbow"]


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An image after the tower, or all of a prompt, for several questions or another rung; of one
    bundle only.

    `tokens` are what rungs have made of it so far, by budget, unless they depend on the request.
    """

    output: TowerOutput
    digest: str
    tokens: dict[int, VisualTokens] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Choice:
    """How the user wants the rung to be chosen; at most one way.

    Args:
        budget: this rung.
        max_ttft_ms, max_memory_mib, max_energy_j: the largest rung that was measured to stay
            within all that are given.
        signal: the image chooses.

    Raises:
        UsageError: if more than one is given, or the signal is unknown.
    """

    budget: int | None = None
    max_ttft_ms: float | None = None
    max_memory_mib: float | None = None
    signal: Signal | None = None
    max_energy_j: float | None = None

    def __post_init__(self) -> None:
        ways = (self.budget is not None, self.is_limited, self.signal is not None)
        if sum(ways) > 1:
            raise UsageError("a budget, limits and a signal exclude each other; give one of them")
        if self.signal not in (None, "elbow"):
            raise UsageError(f"signal {self.signal!r} is unknown; use 'elbow'")

    @property
    def is_limited(self) -> bool:
        """Whether measurements choose."""
        given = self.max_ttft_ms, self.max_memory_mib, self.max_energy_j
        return any(limit is not None for limit in given)

    def policy(
        self, ladder: Ladder, pace: Pace | None = None, controller: Controller | None = None
    ) -> Policy:
        """The policy that chooses so; where there is a limit, one that learns from what it holds.

        Args:
            pace: the measurements, and what was seen since; limits need it.
            controller: chooses where the user does not; None: the largest rung.

        Raises:
            UsageError: for an unknown rung, a limit that is not positive, or no measurements.
        """
        if self.budget is not None:
            ladder.bucket(self.budget)  # an unknown rung is an error now, not after the tower
            return Fixed(self.budget)
        if self.is_limited:
            if pace is None:
                raise UsageError("a limit needs measurements; run `edgetok bench BUNDLE` here")
            given = self.max_ttft_ms, self.max_memory_mib, self.max_energy_j
            return Steady(Limit(pace.table, *given, pace))
        if self.signal is not None:
            return Elbow()
        return Largest() if controller is None else Certified(controller)


@dataclass(frozen=True, slots=True)
class Request:
    """The options of one answer.

    Raises:
        UsageError: if `max_new_tokens` is outside its range.
    """

    policy: Policy
    sampling: Sampling
    max_new_tokens: int | None = None  # None: as many as the rung was exported for
    weights: FloatArray | None = None  # of the pictures; None: all alike

    def __post_init__(self) -> None:
        count = self.max_new_tokens
        if count is not None and not 1 <= count <= limits.NEW_TOKENS:
            raise UsageError(f"max_new_tokens {count} is outside 1..{limits.NEW_TOKENS}")
