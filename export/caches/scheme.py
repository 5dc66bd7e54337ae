"""What a KV cache is to the exporter: graphs, an eager reference, a check, and what it can."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from edgetok.bundle.manifest import Flavour
from edgetok.export.attention import Lowering, Scales, StageModule
from edgetok.export.graph import StageSpec
from edgetok.export.parity.ledger import Ledger
from edgetok.export.parity.prompt import Prompt
from edgetok.export.parity.sessions import GraphRunner
from edgetok.export.reference.model import Reference
from edgetok.export.stages.decoder import DecoderContext
from edgetok.families.parts import Parts
from edgetok.kv import NONE, EvictionPlan
from edgetok.ladder import Ladder, Rung
from edgetok.methods import Method
from edgetok.prefill import Prefill

# Rows that `extend` takes at once, where a prompt has as many (benchmarks/reuse.py).
CHUNK_ROWS, LONG_CHUNK_ROWS = 16, 64


@dataclass(frozen=True)
class Decoding:
    """What a scheme builds its graphs from: a model, its ladder, and one flavour."""

    parts: Parts
    ladder: Ladder
    lowering: Lowering

    @property
    def prompt_tokens(self) -> int:
        return self.ladder.largest.prompt_tokens

    def rung(self, budget: int) -> Rung:
        return self.ladder.rung(budget)

    @property
    def positions(self) -> int:
        """Rotary positions that the largest rung needs."""
        shifts = [self.parts.shift(budget) for budget in self.ladder.budgets]
        return self.ladder.largest.cache_slots + max(0, *shifts)

    @property
    def has_more_graphs(self) -> bool:
        """Whether prompts and chunks of several lengths have graphs: engines are one per length."""
        return self.lowering.flavour == "ort"

    @property
    def chunk_sizes(self) -> tuple[int, ...]:
        """Rows of chunks, ascending.

        A short one is at most a quarter of what follows the image, a long one half of it, for the
        check puts each there.
        """
        room = self.ladder.largest.cache_slots - self.ladder.largest.budget
        short = min(CHUNK_ROWS, max(1, room // 4))
        is_long = self.has_more_graphs and room // 2 >= LONG_CHUNK_ROWS
        return (short, LONG_CHUNK_ROWS) if is_long else (short,)


class CacheScheme(ABC):
    """A KV cache: its graphs, what PyTorch makes of the same rows, and how both are compared.

    Attributes:
        kv: how rows are stored, as the manifest calls it.
        extends: whether there is an `extend` graph.
        rewinds: whether rows may be cut off and written again.
        filing, ring: see `bundle.manifest.KvCache`.
        rounds: nothing; rows, as the reference does in the same place; or all that it is given,
            where the reference of `ort` graphs keeps rows as they are.
        scales: of a cache in whole numbers.
        policy, positions: as in the manifest.
        plan: which rows stay, of a cache of constant size.
        reduction: what prefill takes away between layers.
    """

    kv: str
    extends: ClassVar[bool] = False
    filing: Literal["none", "groups", "tiers"] = "none"
    ring: int = 0
    rounds: Literal["nothing", "rows", "all"] = "nothing"
    scales: Scales | None = None
    policy: str = NONE
    positions: Literal["kept", "renumbered"] = "kept"
    plan: EvictionPlan | None = None
    reduction: Prefill | None = None

    @property
    def rewinds(self) -> bool:
        return False

    def slots(self, ladder: Ladder, layers: int) -> list[int]:
        """Rows that each layer's cache holds: what the rung that needs most leaves there."""
        removed = removed_rows(ladder, self.reduction, layers)
        return [
            max(rung.cache_slots - removed[rung.budget][layer] for rung in ladder)
            for layer in range(layers)
        ]

    @abstractmethod
    def prefill(self, decoding: Decoding, budget: int, rows: int) -> StageModule:
        """The module of a rung's prompt of at most so many rows."""

    @abstractmethod
    def decode(self, decoding: Decoding) -> StageModule:
        """The module of a step."""

    def extend(self, decoding: Decoding, rows: int) -> StageModule:
        """The module of so many rows after those that are held, if `extends`."""
        raise NotImplementedError

    def flush(self) -> StageModule:
        """The module that packs a full ring, unless `filing` is none."""
        raise NotImplementedError

    def later_stages(self, decoding: Decoding) -> list[StageSpec]:
        """Graphs per layer: those that empty one, or go on with a prompt."""
        return []

    @abstractmethod
    def reference(self, parts: Parts, method: Method) -> Reference:
        """PyTorch over a cache like this one."""

    def held(self, reference: Reference, flavour: Flavour) -> Reference:
        """The same with rows rounded as this flavour's graphs round them."""
        return reference

    @abstractmethod
    def check(self, ledger: Ledger, held: Reference, sessions: GraphRunner, prompt: Prompt) -> bool:
        """Compare the decoder's graphs with `held`; whether both kept the same visual tokens."""

    def context(self, decoding: Decoding) -> DecoderContext:
        """What its modules have in common."""
        text = decoding.parts.text
        slots = tuple(self.slots(decoding.ladder, len(text.attending)))
        rows = self.kv if self.scales is not None else "fp32"
        lowering = decoding.lowering.decoder(rows)
        return DecoderContext(text, decoding.positions, slots, lowering, self.scales)


def removed_rows(ladder: Ladder, prefill: Prefill | None, layers: int) -> dict[int, list[int]]:
    """For each rung, by its budget, the prompt rows that are gone before each layer."""
    nothing = [0] * layers
    return {
        b.budget: nothing if prefill is None else prefill.removed(layers, b.budget) for b in ladder
    }
