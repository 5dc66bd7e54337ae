"""FlowCut's score as Hugging Face's own projections and attention maps have it, head by head.

Shares no code with the probe in the tower's graph, which is compared with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edgetok.families.parts import VisionParts, attention_of


class Values:
    """Records query, key and value rows [rows, V] of every block while the model runs."""

    def __init__(self, vision: VisionParts) -> None:
        self.vision = vision
        self.rows: list[dict[str, Tensor]] = [{} for _ in vision.blocks]

    def __enter__(self) -> Values:
        self.hooks = []
        for found, block in zip(self.rows, self.vision.blocks, strict=True):
            attention = attention_of(block)
            for name in ("q_proj", "k_proj", "v_proj"):
                layer: Any = getattr(attention, name.replace("proj", "norm"), None)
                layer = layer or getattr(attention, name)
                self.hooks.append(layer.register_forward_hook(_recorder(found, name)))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def score(self, maps: Sequence[Tensor]) -> Tensor:
        """[N], from the maps [heads, rows, rows] of all blocks."""
        total = torch.zeros(())
        for number, (attention, rows) in enumerate(zip(maps, self.rows, strict=False)):
            own = self._score_block(attention, rows)
            total = own if number == 0 else (total + own) / 2
        return total

    def _score_block(self, attention: Tensor, rows: dict[str, Tensor]) -> Tensor:
        heads, prefix = self.vision.heads, self.vision.prefix_tokens
        query, key, value = (
            rows[name].view(len(rows[name]), heads, -1) for name in ("q_proj", "k_proj", "v_proj")
        )  # [rows, heads, H]
        length: Tensor = value[prefix:].mean(1).norm(p=1, dim=1)
        if prefix:
            drawn = attention[:, 0, prefix:].mean(0)
            each = [(value[:, h] @ value[0, h]).softmax(0) for h in range(heads)]
            alike = torch.stack(each).mean(0)[prefix:]
            return (drawn / drawn.sum() + alike / alike.sum().clamp(min=1e-12)) * length
        mean, scaling = query.mean(0), float(key.shape[2]) ** 0.5  # mean: [heads, H]
        each = [(key[:, h] @ mean[h] / scaling).softmax(0) for h in range(heads)]
        return torch.stack(each).mean(0) * length


def _recorder(found: dict[str, Tensor], name: str) -> Any:
    def record(_module: Any, _inputs: Any, out: Tensor) -> None:
        found[name] = out[0]

    return record
