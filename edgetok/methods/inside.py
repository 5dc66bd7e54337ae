"""How a method acts inside an encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgetok import tokens
from edgetok.tokens.schedules import Encoder, Schedule

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Inside:
    """What a method does block by block.

    Args:
        reduce: what is seen of a block, and how many patches to leave -> a plan for all rows,
            prefix rows first, whose sizes say how many patches of the image each stands for.
        schedule: encoder and budget -> patches left behind each block, or None if it cannot.
        place: where in a block rows are reduced.
        proportional: whether attention counts a row as often as the patches it stands for.
        observe: what is seen of a block -> a running score per patch [n - prefix].
        restore: patches [N, V] when they were reduced, what was made of them then [K, V], and what
            became of that [K, V] -> a row per patch [N, V]; None where the method has no way back.
    """

    reduce: Callable[[tokens.Look, int], tokens.Plan]
    schedule: Callable[[Encoder, int], Schedule | None]
    place: tokens.Place = "after attention"
    proportional: bool = False
    observe: Callable[[tokens.Look], Tensor] | None = None
    restore: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None

    def steps(self, encoder: Encoder, budget: int) -> Schedule:
        """Patches left behind each block; all of them where the budget is N.

        Raises:
            ValueError: if the encoder is too short for the budget.
        """
        found = (
            (encoder.n_tokens,) * encoder.blocks
            if budget == encoder.n_tokens
            else self.schedule(encoder, budget)
        )
        if found is None:
            raise ValueError(f"{encoder.blocks} blocks cannot leave {budget} patches")
        return found

    def budgets(self, encoder: Encoder) -> list[int]:
        """Every budget from 1 to N that the encoder is long enough for."""
        reached = (b for b in range(1, encoder.n_tokens) if self.schedule(encoder, b) is not None)
        return [*reached, encoder.n_tokens]
