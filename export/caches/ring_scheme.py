"""What the schemes of caches with a ring have in common."""

from __future__ import annotations

from typing import ClassVar, Literal

from edgetok.errors import UsageError
from edgetok.export.attention import StageModule
from edgetok.export.caches.ring import RingDecode, RingFlush, RingPrefill, RingShape
from edgetok.export.caches.scheme import CacheScheme, Decoding
from edgetok.kv.stores.kivi import RING_ROWS
from edgetok.ladder import Ladder


class RingCache(CacheScheme):
    """Graphs over the buffers of a shape; subclasses name their modules."""

    shape: RingShape
    stages: ClassVar[tuple[type[RingPrefill], type[RingDecode], type[RingFlush] | None]]

    @property
    def filing(self) -> Literal["none", "groups", "tiers"]:  # type: ignore[override]
        return self.shape.filing

    @property
    def ring(self) -> int:  # type: ignore[override]
        return self.shape.ring

    def slots(self, ladder: Ladder, layers: int) -> list[int]:
        return [self.shape.slots] * layers

    def prefill(self, decoding: Decoding, budget: int, rows: int) -> StageModule:
        return self.stages[0](self.context(decoding), self.shape, rows)

    def decode(self, decoding: Decoding) -> StageModule:
        return self.stages[1](self.context(decoding), self.shape)

    def flush(self) -> StageModule:
        if self.stages[2] is None:
            return super().flush()
        return self.stages[2](self.shape)


def require_ring_fits(kv: str, slots: int, head_dim: int, bits: int) -> None:
    """Refuse a cache that is shorter than a ring, and heads that fill no whole bytes.

    Raises:
        UsageError: naming the limit and the way out.
    """
    if slots < RING_ROWS:
        raise UsageError(
            f"a {kv} cache packs groups of {RING_ROWS} rows and the largest rung needs "
            f"{slots}; use --kv fp32, or raise --prompt-tokens or --new-tokens"
        )
    if head_dim * bits % 8:
        raise UsageError(
            f"heads of {head_dim} channels fill no whole bytes at {bits} bits; use --kv int8"
        )
