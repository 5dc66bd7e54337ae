"""Static torch modules of encoders: one from pixels to the head's output, one for texts.

Shapes are constants: N patches, K of them left, as in `edgetok.export.stages.tower`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from edgetok import names
from edgetok.errors import UsageError
from edgetok.export.attention import StageModule, emitting
from edgetok.export.stages.tower_reducing import TracedBlock, encoder_of
from edgetok.families.encoder_parts import Encoded, EncoderParts
from edgetok.methods import TOWER_METHODS, Method
from edgetok.methods.inside import Inside
from edgetok.tokens import Look, Plan, Rows, reduce_inside
from edgetok.tokens.encoder import Fused


def require_fit(parts: EncoderParts, method: Method) -> Inside:
    """How a method acts inside the tower, if it can serve this head.

    Raises:
        UsageError: naming the methods that can.
    """
    fit = [name for name, each in TOWER_METHODS.items() if _serves(parts, each.inside)]
    if method.inside is None or method.name not in fit:
        wants = "a row per patch" if parts.needs_patches else "what its own tower makes"
        raise UsageError(
            f"{method.name} cannot serve this model: its head reads {wants}; methods that can: "
            f"{', '.join(fit)}"
        )
    return method.inside


def _serves(parts: EncoderParts, inside: Inside | None) -> bool:
    return inside is not None and (inside.restore is not None or not parts.needs_patches)


def require_movable(parts: EncoderParts, budgets: list[int]) -> None:
    """Refuse reduced rungs of a tower whose rows are tied to their places.

    Raises:
        UsageError: if there are any.
    """
    smaller = [budget for budget in budgets if budget < parts.vision.full_tokens]
    if smaller and not parts.movable:
        raise UsageError(
            f"{parts.family} turns each row by its place in the picture, and a merged row has "
            "none; only --budgets full can be exported"
        )


class Encode(StageModule):
    """pixels [1, 3, h, w] -> the head's output, the patch each row is centred on [K], sizes [K].

    `attention` lowers the blocks' attention to one flavour.
    """

    def __init__(self, parts: EncoderParts, inside: Inside, budget: int, attention: Fused) -> None:
        super().__init__()
        self.model, self.head = parts.vision.model, parts.head
        self.parts, self.inside = parts, inside
        self.encoder = encoder_of(parts.vision)
        self.schedule = inside.steps(self.encoder, budget)
        self.attention = attention
        self.biased = inside.proportional and budget < self.encoder.n_tokens

    @property
    def inputs(self) -> dict[str, Tensor]:
        return {names.PIXELS: torch.zeros(1, 3, *self.parts.vision.image_px)}

    @property
    def outputs(self) -> list[str]:
        return [self.parts.output, names.KEPT, names.SIZES]

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        vision, prefix = self.parts.vision, self.encoder.prefix
        blocks = [TracedBlock(vision.model, block) for block in vision.blocks]
        taps, moment = [], Moment(self.inside, prefix)

        def watch(number: int, rows: Rows) -> None:
            if number in self.parts.taps:
                taps.append(rows.x)

        rows = reduce_inside(
            *(blocks, vision.embed(pixels)[0], moment.watched(), self.encoder, self.schedule),
            self.attention,
            watch,
        )
        bias = rows.sizes.log() if self.biased else None
        with emitting(vision.model, self._emit):  # of blocks that a head has
            out = self.head(Encoded(tuple(taps), rows.sizes, bias, moment.restore))
        return out, rows.indices[prefix:], rows.sizes[prefix:]

    def _emit(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        return self.attention(query[0], key[0], value[0], scaling, None).unsqueeze(0)


@dataclass
class Moment:
    """Notes the patches when they were reduced, and what was made of them, for the way back."""

    inside: Inside
    prefix: int
    patches: Tensor | None = None
    made: Tensor | None = None

    def watched(self) -> Inside:
        """The method, which leaves its note here."""

        def reduce(look: Look, keep: int) -> Plan:
            plan = self.inside.reduce(look, keep)
            self.patches, self.made = look.patches, plan.apply(look.x)[self.prefix :]
            return plan

        return replace(self.inside, reduce=reduce)

    def restore(self, rows: Tensor) -> Tensor:
        """Rows [prefix + K, V] after the reduction -> [prefix + N, V]; others as they are."""
        if self.patches is None or self.made is None:
            return rows
        if rows.shape[0] == self.prefix + self.patches.shape[0] or self.inside.restore is None:
            return rows
        back = self.inside.restore(self.patches, self.made, rows[self.prefix :])
        return torch.cat([rows[: self.prefix], back]) if self.prefix else back


class Describe(StageModule):
    """token ids [1, T] -> the embedding of a text [1, E], of length 1.

    Args:
        length: T.
    """

    outputs = (names.TEXT_EMBEDDING,)

    def __init__(self, module: nn.Module, length: int) -> None:
        super().__init__()
        self.module, self.length = module, length

    @property
    def inputs(self) -> dict[str, Tensor]:
        return {names.TOKEN_IDS: torch.zeros(1, self.length, dtype=torch.int64)}

    def forward(self, token_ids: Tensor) -> Tensor:
        made: Tensor = self.module(token_ids)
        return made
