"""What one answer is asked for: an image, perhaps encoded before, and checked options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypedDict

from edgetok import limits
from edgetok.bundle.manifest import Generation
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


class ChoiceOptions(TypedDict, total=False):
    """How the rung is chosen; at most one way.

    Keys:
        budget: the rung to use. Or give limits, which need `edgetok bench` to have run here,
            or a signal; without any of them the bundle's certified controller chooses, if
            it has one, all its rungs are loaded and the temperature is 0; else the largest
            rung answers.
        max_ttft_ms: limit for the time to the first token.
        max_memory_mib: limit for the memory of the process.
        max_energy_j: limit for the energy of an answer, on devices that tell it.
        signal: "elbow" lets the image choose.
    """

    budget: int | None
    max_ttft_ms: float | None
    max_memory_mib: float | None
    max_energy_j: float | None
    signal: Signal | None


class TurnOptions(TypedDict, total=False):
    """How an answer goes on.

    Keys:
        max_new_tokens: as many as the rung was exported for when None or not given.
        temperature, top_p, seed, top_k, repetition_penalty, no_repeat_ngram_size, min_new_tokens:
            see `sampling.Sampling`.
    """

    max_new_tokens: int | None
    temperature: float
    top_p: float | None
    seed: int
    top_k: int | None
    repetition_penalty: float | None
    no_repeat_ngram_size: int | None
    min_new_tokens: int | None


class AnswerOptions(ChoiceOptions, TurnOptions, total=False):
    """Everything that may be asked of one answer.

    Keys:
        weights: of each image, by which some methods divide the budget; all alike when None.
        system: what the model is told beside the question, where its template takes that.
    """

    weights: Sequence[float] | None
    system: str | None


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

    @classmethod
    def split(cls, options: Mapping[str, Any]) -> tuple[Choice, dict[str, Any]]:
        """The choice in `AnswerOptions`, and what else is in them."""
        own = {each.name for each in fields(cls)}
        rest = {name: value for name, value in options.items() if name not in own}
        return cls(**{name: options[name] for name in options.keys() & own}), rest

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
            ladder.rung(self.budget)  # an unknown rung is an error now, not after the tower
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
    weights: FloatArray | None = None  # of the images; None: all alike
    system: str | None = None

    @classmethod
    def of(
        cls,
        policy: Policy,
        options: Mapping[str, Any],
        asked: Generation | None = None,
        weights: FloatArray | None = None,
        system: str | None = None,
    ) -> Request:
        """The same from `TurnOptions`; `asked` is what the checkpoint asks for.

        Raises:
            TypeError: for an option that there is not.
            UsageError: for values that are out of range.
        """
        sampling = dict(options)
        count = sampling.pop("max_new_tokens", None)
        chosen = Sampling(**sampling, asked=asked or Generation())
        return cls(policy, chosen, count, weights, system)

    def __post_init__(self) -> None:
        count = self.max_new_tokens
        if count is not None and not 1 <= count <= limits.NEW_TOKENS:
            raise UsageError(f"max_new_tokens {count} is outside 1..{limits.NEW_TOKENS}")
