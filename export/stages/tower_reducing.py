"""Stages of a method that acts inside the tower: one tower per rung, and a compress that projects.

Hugging Face's own norms, projections and MLPs are traced; between them the driver of
`edgetok.tokens.encoder` reduces rows. Shapes are constants, as in `edgetok.export.stages.tower`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgetok import names
from edgetok.export.attention import StageModule, emitting
from edgetok.families.parts import Parts, VisionParts
from edgetok.methods.inside import Inside
from edgetok.tokens import reduce_inside
from edgetok.tokens.encoder import Fused, Mix
from edgetok.tokens.schedules import Encoder


def encoder_of(vision: VisionParts) -> Encoder:
    """The numbers of a tower that schedules depend on."""
    blocks = len(vision.blocks)
    return Encoder(vision.full_tokens, vision.grid, vision.prefix_tokens, blocks, vision.depth)


class ReducingTower(StageModule):
    """pixels [1, 3, h, w] -> features [K, V], the patch each is centred on [K], sizes [K].

    No signal: what the controller's signals measure is spread over patches that are gone.
    """

    outputs = (names.FEATURES, names.TOWER_KEPT, names.TOWER_SIZES)

    def __init__(self, vision: VisionParts, inside: Inside, budget: int, attention: Fused) -> None:
        super().__init__()
        self.model = vision.model
        self.vision = vision
        self.inside = inside
        self.encoder = encoder_of(vision)
        self.schedule = inside.steps(self.encoder, budget)
        self.attention = attention  # of one flavour

    @property
    def inputs(self) -> dict[str, Tensor]:
        return {names.PIXELS: torch.zeros(self.vision.n_parts, 3, *self.vision.image_px)}

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        blocks = [TracedBlock(self.vision.model, block) for block in self.vision.blocks]
        x = self.vision.embed(pixels)[0]
        rows = reduce_inside(blocks, x, self.inside, self.encoder, self.schedule, self.attention)
        prefix = self.encoder.prefix
        return rows.x[prefix:], rows.indices[prefix:], rows.sizes[prefix:]


class TracedBlock:
    """One block of Hugging Face's CLIP or SigLIP encoder, whose attention the driver mixes."""

    def __init__(self, model: nn.Module, block: Any) -> None:
        self.model = model
        self.block = block

    def attend(self, x: Tensor, mix: Mix) -> Tensor:
        """[n, V] -> [n, V], without the residual."""

        def emit(
            module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float
        ) -> Tensor:
            return mix(query[0], key[0], value[0], scaling).unsqueeze(0)

        with emitting(self.model, emit):
            normed = self.block.layer_norm1(x.unsqueeze(0))
            out: Tensor = self.block.self_attn(normed, attention_mask=None)[0]
        return out[0]

    def feed(self, x: Tensor) -> Tensor:
        """[n, V] -> [n, V], without the residual."""
        out: Tensor = self.block.mlp(self.block.layer_norm2(x.unsqueeze(0)))
        return out[0]


class Project(StageModule):
    """The compress stage after a reducing tower: features [K, V] -> visual tokens [K, D].

    What is kept and how large it is pass through.
    """

    outputs = (names.VISUAL_TOKENS, names.KEPT, names.SIZES)

    def __init__(self, parts: Parts, budget: int) -> None:
        super().__init__()
        self.projector = parts.projector
        self.budget, self.width = budget, parts.vision.width

    @property
    def inputs(self) -> dict[str, Tensor]:
        return {
            names.FEATURES: torch.rand(self.budget, self.width),
            names.TOWER_KEPT: torch.zeros(self.budget, dtype=torch.int64),
            names.TOWER_SIZES: torch.ones(self.budget),
        }

    def forward(self, features: Tensor, kept: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        # Sums, since a graph's output cannot be its input.
        return self.projector(features), kept + 0, sizes + 0
