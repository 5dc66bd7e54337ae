"""Probes of other blocks as Hugging Face computes them, from whole attention maps.

Shares no code with the probes in the tower's graph, which are compared with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edgetok import names
from edgetok.families.parts import VisionParts, attention_of

GLOBAL_FACTOR = 34.8  # VFlowOpt (arXiv 2508.05211), the released search for a quarter of the tokens


def other_probe(
    name: str, vision: VisionParts, maps: Sequence[Tensor], projections: Projections
) -> Tensor:
    """The probe of this name, from the maps [heads, rows, rows] of all blocks."""
    prefix, depth = vision.prefix_tokens, len(vision.blocks)
    if name == names.LATE_CLS_ATTENTION:
        return sum((maps[i][:, 0, prefix:].mean(0) for i in vision.late_blocks), torch.zeros(()))
    if name == names.EARLY_CLS_ATTENTION:
        return maps[0][:, 0, prefix:].mean(0)
    if name == names.OBJECT_ATTENTION:
        return maps[vision.object_block].mean((0, 1))[prefix:]
    if name == names.GLOBAL_ATTENTION:
        return _from_most_attended(maps[depth - 1].mean(0)[prefix:, prefix:])
    if name == names.NEXT_CLS_ATTENTION:
        return maps[depth if vision.next_block else depth - 1][:, 0, prefix:].mean(0)
    query, key = projections.rows
    if name == names.NEXT_WIDE_ATTENTION:
        return torch.softmax(key @ query[0] / key.shape[1] ** 0.5, 0)[prefix:]
    if name == names.NEXT_CLS_LOGITS:
        scaling: float = vision.heads * (vision.width / vision.heads) ** 0.5
        return key[prefix:] @ query[0] / scaling
    if name == names.NEXT_KEYS:
        return key[prefix:]
    raise KeyError(name)


def _from_most_attended(attention: Tensor) -> Tensor:
    """[N, N] -> [N], mean over the queries that receive far more than the mean."""
    received = attention.mean(0)
    asking = attention[received >= GLOBAL_FACTOR * received.mean()]
    return (asking if len(asking) else attention).mean(0)


class Projections:
    """Records the query and key rows [rows, V] of one block while the model runs."""

    def __init__(self, block: Any) -> None:
        attention = attention_of(block)
        self.modules = tuple(
            getattr(attention, f"{side}_norm", getattr(attention, f"{side}_proj")) for side in "qk"
        )
        self.rows: list[Tensor] = []

    def __enter__(self) -> Projections:
        def record(_module: Any, _inputs: Any, out: Tensor) -> None:
            self.rows.append(out[0])

        self.hooks = [module.register_forward_hook(record) for module in self.modules]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()
