"""A policy of the KV cache: what each row is remembered by, and which rows stay when it is full.

Beside keys and values a layer may keep planes, float32 [P, G, C]: one number per row and head for
each name in `Policy.planes`. They are made at prefill, brought up to date by each decode step, and
gathered with the rows when the cache is compacted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from edgetok import limits
from edgetok.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from edgetok.kv.mixer import Mixer

SCORE = "score"  # what a row has received, in the policy's own weighting
SEEN = "seen"  # by how many queries it could have been attended to
TEXT = "text"  # 1 at rows of text, 0 at visual rows

STRETCH = 8  # an eighth of the slots is freed at once: rarer compaction against more rows kept

# From rows S and a scalar of true rows n: which rows are asked, [R] int64, and their weights [R].
Asks = Callable[[int, "Tensor"], tuple["Tensor", "Tensor"]]


@dataclass(frozen=True, slots=True)
class Policy:
    """What a cache of constant size keeps.

    Args:
        name, paper, summary: as lists show them.
        differs: how it differs from the program that the paper's authors published.
        planes: what is remembered of each row beside key and value.
        positions: `kept`: a row's rotary position is its place in the conversation, which ends
            where the model's positions end; `renumbered`: its place in the cache, which never does.
        sinks: first rows that always stay.
        recent: last rows that always stay, or their share of all that do; None: all that `sinks`
            leaves.
        asks: the queries of the prompt that give rows their first score; None: no scores.
        decay: what a decode step multiplies a score with before it adds its own attention; None:
            scores stay as prefill made them.
        pool: width of the average over neighbouring scores, and the window that is asked; 0: none.
        drawn: scores are random numbers that a row is born with.
        capacities: slots of each layer, from slots on average, number of layers, `window`, and
            rows of the longest prompt.
        learn: for a policy with learned weights, those by name -> the policy.
        mixers: what mixes rows that go into rows that stay, one per layer; none: they just go.
    """

    name: str
    paper: str
    summary: str
    differs: str
    row_state: tuple[str, ...] = ()
    positions: Literal["kept", "renumbered"] = "kept"
    sinks: int = 4
    recent: int | Fraction | None = 16
    asks: Asks | None = None
    decay: float | None = None
    pool: int = 0
    drawn: bool = False
    capacities: Callable[[int, int, int, int], list[int]] | None = None
    learn: Callable[[Mapping[str, Tensor]], Policy] | None = None
    mixers: tuple[Mixer, ...] = ()

    @property
    def window(self) -> int:
        """The fewest last rows that always stay."""
        return 1 if isinstance(self.recent, Fraction) else self.recent or 0


@dataclass(frozen=True, slots=True)
class EvictionPlan:
    """Constants of a policy in one model.

    Args:
        slots: rows that each layer can hold.
        keep: rows that each layer keeps when it is full, fewer than `slots`.
    """

    policy: Policy
    slots: tuple[int, ...]
    keep: tuple[int, ...]

    def recent(self, layer: int) -> int:
        """Last rows of a layer that always stay."""
        given, keep = self.policy.recent, self.keep[layer]
        if isinstance(given, Fraction):
            return int(keep * given)
        return keep - self.policy.sinks if given is None else given


def plan_eviction(
    policy: Policy,
    slots: int,
    layers: int,
    positions: int = limits.CACHE_SLOTS,
    prompt_rows: int = limits.CACHE_SLOTS,
) -> EvictionPlan:
    """Slots and kept rows of every layer.

    Args:
        slots: of a layer, on average.
        positions: rotary positions that the model knows; no layer needs more slots.
        prompt_rows: of the longest prompt.

    Raises:
        UsageError: if the slots are too few for the rows that always stay, or too many.
    """
    if slots > positions:
        raise UsageError(
            f"{slots} KV slots are more than the {positions} positions that there can be; lower "
            "--kv-slots"
        )
    capacities = [min(rows, positions) for rows in _capacities(policy, slots, layers, prompt_rows)]
    keep = [_kept(rows) for rows in capacities]
    if min(keep) <= _always(policy):
        raise UsageError(
            f"KV policy {policy.name} always keeps {policy.sinks} first and {policy.window} "
            f"last rows; with {slots} slots its smallest layer keeps {min(keep)} rows in all, "
            f"raise --kv-slots to {_enough(policy, layers, prompt_rows)} or more"
        )
    return EvictionPlan(policy, tuple(capacities), tuple(keep))


def keep_all(slots: int, layers: int) -> EvictionPlan:
    """A cache that nothing is ever taken from, for what compares with one."""
    policy = Policy("none", "edgetok", "keeps every row", "ours", sinks=0, recent=0)
    return EvictionPlan(policy, (slots,) * layers, (slots,) * layers)


def _capacities(policy: Policy, slots: int, layers: int, prompt_rows: int) -> list[int]:
    if policy.capacities is None:
        return [slots] * layers
    return policy.capacities(slots, layers, policy.window, prompt_rows)


def _kept(slots: int) -> int:
    return slots - max(1, slots // STRETCH)


def _always(policy: Policy) -> int:
    return policy.sinks + policy.window


def _enough(policy: Policy, layers: int, prompt_rows: int) -> int:
    """The fewest slots that are enough."""
    slots = 1
    while _kept(min(_capacities(policy, slots, layers, prompt_rows))) <= _always(policy):
        slots += 1
    return slots
