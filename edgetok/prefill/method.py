"""What a method of reduction at prefill is: a published rule with its facts and its composition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from edgetok.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from edgetok import tokens
    from edgetok.prefill.look import Look

Verdict = Literal["exact", "fixed-budget", "own formulation"]
Positions = Literal["kept", "renumbered"]
Read = Literal["previous attention", "next attention", "gates"]
Skip = Literal["", "mlp", "layer"]

Counts = tuple[int, ...]  # visual tokens that each layer sees; never rises


def no_exits(layers: int) -> tuple[int, ...]:
    """Visual tokens leave at constant layers, if at all."""
    return ()


def no_skips(layers: int, ratio: float) -> tuple[Skip, ...]:
    """Every layer computes all of its rows."""
    nothing: Skip = ""
    return (nothing,) * layers


@dataclass(frozen=True)
class Held:
    """What the cache holds of the visual tokens that layers saw.

    Args:
        name: as `KvCache.policy` of a manifest.
        counts: of what each layer sees, what its cache holds behind the prompt: as many, or as
            many as a later layer sees.
    """

    name: str
    counts: Callable[[Counts], Counts]


AS_SEEN = Held("none", lambda counts: counts)


@dataclass(frozen=True)
class PrefillMethod:
    """A rule that takes visual tokens away between layers, by the name its paper gives it.

    Args:
        name: as typed by users.
        paper: where it was published, or "baseline".
        verdict: as of `edgetok.methods.Method`.
        summary: one line for lists.
        positions: whether the rows that remain keep their rotary positions.
        reads: what it looks at beside hidden rows.
        ratio: what is meant if the user names none.
        ratio_is: what the ratio says, for lists.
        counts: layers of the decoder, K visual tokens, ratio -> how many each layer sees.
        cut: what is seen, and how many to keep (at least 1) -> which; source rows are the visual
            rows that are still there.
        skips: layers and ratio -> what each layer leaves out for visual rows: "mlp", or "layer",
            in which they are keys and values but neither queries nor fed forward.
        held: the paper's own decode cache, if it has one.
        exits: layers of the decoder -> those before which a signal may have all visual tokens
            leave, ascending, none of them the first.
        signal: what is seen before such a layer, and the ratio -> float32 [1], above 0 to leave.
        learn: for a method with learned weights, those by name -> the method.
        width: D of the decoder that those are for; 0 for any.
        differs: as of `edgetok.methods.Method`.
    """

    name: str
    paper: str
    verdict: Verdict
    summary: str
    positions: Positions
    reads: tuple[Read, ...]
    ratio: float
    ratio_is: str
    counts: Callable[[int, int, float], Counts]
    cut: Callable[[Look, int], tokens.Plan] | None = None
    skips: Callable[[int, float], tuple[Skip, ...]] = no_skips
    held: Held = AS_SEEN
    exits: Callable[[int], tuple[int, ...]] = no_exits
    signal: Callable[[Look, float], Tensor] | None = None
    learn: Callable[[Mapping[str, Tensor]], PrefillMethod] | None = None
    width: int = 0
    differs: str = ""


@dataclass(frozen=True)
class Prefill:
    """A method with the ratio that a user chose, and what the cache holds behind it."""

    method: PrefillMethod
    ratio: float
    held: Held = AS_SEEN

    @property
    def name(self) -> str:
        return self.method.name

    def counts(self, layers: int, visual: int) -> Counts:
        """Visual tokens that each layer sees, of `visual` that come in.

        Raises:
            UsageError: if the decoder has too few layers to cut between any two.
        """
        self.check_depth(layers)
        if self.ratio == 1.0:
            return (visual,) * layers
        counts = self.method.counts(layers, visual, self.ratio)
        rises = any(a < b for a, b in pairwise(counts))
        if len(counts) != layers or counts[0] != visual or rises:
            raise ValueError(f"{self.name}: {counts} is no schedule of {layers} layers")
        return counts

    def cuts(self, layers: int, visual: int) -> list[int]:
        """How many tokens each cut leaves that leaves any."""
        return [b for a, b in pairwise(self.counts(layers, visual)) if 0 < b < a]

    def skips(self, layers: int) -> tuple[Skip, ...]:
        """What each layer leaves out for visual rows."""
        return no_skips(layers, 1.0) if self.ratio == 1.0 else self.method.skips(layers, self.ratio)

    def removed(self, layers: int, visual: int) -> list[int]:
        """Rows of a prompt that each layer's cache does not hold."""
        return [visual - count for count in self.held.counts(self.counts(layers, visual))]

    def exits(self, layers: int) -> tuple[int, ...]:
        """Layers before which a signal may have all visual tokens leave.

        Raises:
            UsageError: if the decoder has too few layers, or the candidates are of another one.
        """
        self.check_depth(layers)
        return self.method.exits(layers)

    def with_cache(self, name: str) -> Prefill:
        """The same with the decode cache of its paper, asked for by name.

        Raises:
            UsageError: if the method has no such cache.
        """
        if self.method.held.name != name:
            raise UsageError(
                f"--kv-policy {name} is the cache behind --prefill {name}, not {self.name}; "
                "use both, or --kv-policy none"
            )
        return replace(self, held=self.method.held)

    def check_depth(self, layers: int) -> None:
        """Refuse a decoder that has no place to cut.

        Raises:
            UsageError: says how many layers it needs.
        """
        if layers < 2:
            raise UsageError(
                f"{self.name} takes tokens away between layers, and this decoder has {layers}; "
                "it needs 2 or more, leave --prefill out"
            )
