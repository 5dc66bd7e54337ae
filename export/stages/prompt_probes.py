"""What the layers of a reducing prefill emit: attention that remembers, or that only looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgetok.export.attention import DecoderLowering, merge_heads
from edgetok.export.stages.prompt_rows import text_rows, weave
from edgetok.prefill.probes import Probe, Span


@dataclass
class PromptAttention:
    """Attention of a whole prompt that remembers what its last layer compared.

    Args:
        cache: attends and writes in a flavour: a `CacheAttention` of either.
        lowering: of the same flavour.
        text_alone: the rows, where only those of text ask; what it returns for others is zero.
    """

    cache: Any
    lowering: DecoderLowering
    text_alone: Span | None = None

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        self.seen = (query, key, scaling)
        if self.text_alone is None:
            out: Tensor = self.cache(module, query, key, value, scaling)
            return out
        return self._ask_from_text(self.text_alone, query, key, value, scaling)

    def _ask_from_text(
        self, span: Span, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        """Attention of text rows to all, in single operators: the fused one asks from every row."""
        (cos, sin), groups = self.cache.rotary[len(self.cache.present)], key.shape[1]
        place, turn = torch.arange(span.rows), self.lowering.turn
        query, key = (turn(merge_heads(p), place, cos, sin, p.shape[1]) for p in (query, key))
        query, key, value = self.cache.put(query, key, value)
        text = text_rows(span)
        asking = query[0].index_select(1, text) * scaling
        attended = Probe(lambda _: asking, key[0], span).attend(text)  # [heads, T, S]
        shared = attended.reshape(groups, -1, span.rows) @ value[0]
        found = merge_heads(shared.reshape(1, query.shape[1], len(text), -1))
        return weave(span, found, torch.zeros(1, span.visual, found.shape[2]))


class Peek:
    """An emitter that takes queries and keys and attends to nothing: the rest leaves the graph."""

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        self.seen = (query, key, scaling)
        return merge_heads(query)


@contextmanager
def recorded_gates(layer: Any, wanted: bool) -> Iterator[Callable[[], Tensor | None]]:
    """What the last projection of a layer's MLP reads, [1, S, F], once the layer has run."""
    found: list[Tensor] = []
    if not wanted:
        yield lambda: None
        return
    hook = layer.mlp.down_proj.register_forward_pre_hook(lambda _m, args: found.append(args[0]))
    try:
        yield lambda: found[-1]
    finally:
        hook.remove()


def of_rows(module: Any, rows: Tensor) -> Callable[[Tensor], Tensor]:
    """A linear layer on some rows of [1, S, D] alone."""
    linear = module.forward  # its own: bound before it is replaced

    def forward(x: Tensor) -> Tensor:
        out: Tensor = linear(x.index_select(1, rows))
        return out

    return forward
