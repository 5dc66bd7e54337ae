"""Which module runs a prompt: its attention, its positions, and what is taken away of it."""

from __future__ import annotations

from edgetok.export.attention import StageModule
from edgetok.export.stages.decoder import DecoderContext, Prefill
from edgetok.export.stages.prompt_bidirectional import BidirectionalPrefill
from edgetok.export.stages.prompt_mrope import MropePrefill
from edgetok.export.stages.prompt_reduced import ReducingPrefill
from edgetok.export.stages.prompt_segments import Segment, list_segments
from edgetok.families.parts import Parts
from edgetok.prefill import Prefill as Reduction


def build_prompt(
    context: DecoderContext, parts: Parts, reduction: Reduction | None, rows: int, visual: int
) -> StageModule:
    """The prefill module of prompts of so many rows and visual tokens, over plain rows."""
    if reduction is not None:
        if segments := list_segments(reduction, context.layers):
            return Segment(context, reduction, rows, visual, segments[0])
        return ReducingPrefill(context, reduction, rows, visual)
    if parts.text.bidirectional != "nothing":
        return BidirectionalPrefill(context, rows, visual)
    if parts.text.mrope_axes:
        deep = len(parts.deepstack_projectors)
        return MropePrefill(context, rows, parts.vision.grid, visual, deep)
    return Prefill(context, rows)
