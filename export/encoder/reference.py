"""An encoder as Hugging Face runs it: what its graphs are compared with.

At the full budget that is the whole model's own forward pass. Smaller rungs run Hugging Face's
blocks eagerly, as `reference_inside` has it; rows are given back by a loop over patches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edgetok import names
from edgetok.export.reference.tower_reducing import ReducingReference, State
from edgetok.families.encoder_parts import Encoded, EncoderParts
from edgetok.methods import expedit
from edgetok.methods.inside import Inside
from edgetok.tokens import Look, Plan


@dataclass(frozen=True)
class EncoderReference:
    """Runs a model at any budget."""

    parts: EncoderParts
    inside: Inside

    @torch.no_grad()
    def whole(self, pixels: Tensor) -> Tensor:
        """The output of Hugging Face's own forward pass."""
        return self.parts.whole(pixels)

    @torch.no_grad()
    def run(self, pixels: Tensor, budget: int) -> dict[str, Tensor]:
        """The outputs of the graph of a rung, by name."""
        parts, prefix = self.parts, self.parts.vision.prefix_tokens
        noted: list[tuple[Tensor, Tensor]] = []

        def reduce(look: Look, keep: int) -> Plan:
            plan = self.inside.reduce(look, keep)
            noted.append((look.x[prefix:], (plan.matrix() @ look.x)[prefix:]))
            return plan

        taps = []

        def watch(number: int, state: State) -> None:
            if number in parts.taps:
                taps.append(state.x)

        noting = ReducingReference(parts.vision, replace(self.inside, reduce=reduce))
        state = noting.run_blocks(pixels, budget, watch)

        def restore(rows: Tensor) -> Tensor:
            if not noted or len(rows) == prefix + len(noted[0][0]):
                return rows
            return torch.cat([rows[:prefix], give_back(*noted[0], rows[prefix:])])

        bias = state.sizes.log() if self.inside.proportional else None
        out = parts.head(Encoded(tuple(taps), state.sizes, bias, restore))
        return {
            parts.output: out,
            names.KEPT: torch.tensor(state.patches[prefix:], dtype=torch.int64),
            names.SIZES: state.sizes[prefix:],
        }

    @torch.no_grad()
    def describe(self, ids: Tensor) -> Tensor:
        """The embedding [1, E] of a text's ids [1, T]."""
        assert self.parts.text is not None  # noqa: S101
        return self.parts.text.whole(ids)


def give_back(patches: Tensor, then: Tensor, now: Tensor) -> Tensor:
    """A row per patch from its nearest clusters (Expedit): [N, V], [K, V], [K, V] -> [N, V]."""
    found = []
    for patch in patches:
        away = ((then - patch) ** 2).sum(1)
        near = away.argsort(stable=True)[: expedit.NEAREST]
        weights = (expedit.TEMPERATURE * (away.min() - away[near])).exp()
        found.append((weights / weights.norm()) @ now[near])
    return torch.stack(found)
