"""Prompts in which rows see later ones: images in Gemma 3, all of it in PaliGemma.

No fused operator of a decoder looks ahead, so the prompt's attention is single operators; the rows
that follow are attended to as everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgetok import names
from edgetok.export.attention import FORBIDDEN, DecoderLowering, attention_extras, merge_heads
from edgetok.export.stages.decoder import Decoder, DecoderContext


class BidirectionalPrefill(Decoder):
    """Embeddings [1, S, D], padded on the right -> logits [1, W] of the last row, and the cache.

    Args:
        rows: S.
        visual: K, the rows of the image.
    """

    def __init__(self, context: DecoderContext, rows: int, visual: int) -> None:
        super().__init__(context)
        self.rows, self.visual = rows, visual
        self.of_image = self.text.bidirectional == "image"

    @property
    def inputs(self) -> dict[str, Tensor]:
        start = {names.VISUAL_START: torch.zeros(1, dtype=torch.int64)} if self.of_image else {}
        return self.context.prompt(self.rows) | start | self.context.past()

    def forward(self, embeds: Tensor, last: Tensor, lengths: Tensor, *rest: Tensor) -> Any:
        """`rest` begins with the first visual row, int64 [1], where the image alone sees ahead."""
        past = rest[1:] if self.of_image else rest
        row = torch.arange(embeds.shape[1])
        if self.of_image:
            together = (row >= rest[0]) & (row < rest[0] + self.visual)
        else:
            together = row <= last
        given = lengths, None, self._rotary(), self._scales()
        cache = self.lowering.attention(self.by_layer(past), *given)
        attention = BidirectionalAttention(cache, self.lowering, together, windows=self.of_image)
        rows = self.attend(embeds, attention)
        logits = self.read_logits(rows[0].index_select(0, last))
        return logits, *(buffer for held in cache.present for buffer in held)


@dataclass
class BidirectionalAttention:
    """Causal attention of a prompt, but rows of `together` see each other too.

    Args:
        cache: writes the prompt's rows in a flavour: a `CacheAttention` of either.
        lowering: of the same flavour.
        together: bool [S].
        windows: whether a layer's window hides rows that see each other, as in Gemma 3; it hides
            earlier rows in any case.
    """

    cache: Any
    lowering: DecoderLowering
    together: Tensor
    windows: bool

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        (cos, sin), turn = self.cache.rotary[len(self.cache.present)], self.lowering.turn
        place = torch.arange(query.shape[2])
        query, key = (turn(merge_heads(p), place, cos, sin, p.shape[1]) for p in (query, key))
        query, key, value = self.cache.put(query, key, value)
        extras = attention_extras(module)
        seen = self._seen(place, extras.get("local_window_size"))
        return _attend(query, key, value, scaling, seen, extras.get("softcap"))

    def _seen(self, place: Tensor, window: int | None) -> Tensor:
        """Which rows [S] each row [S] sees."""
        causal = place[None] <= place[:, None]
        near = causal if window is None else place[None] > place[:, None] - window
        both = self.together[None] & self.together[:, None]
        return ((causal | both) & near) if self.windows and window else (causal & near) | both


def _attend(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, seen: Tensor, cap: float | None
) -> Tensor:
    """query [1, heads, S, H], key and value [1, G, S, H] -> [1, S, heads * H]."""
    (heads, count, head_dim), groups = query.shape[1:], key.shape[1]
    asking = (query * scaling).reshape(groups, heads // groups, count, head_dim)
    scores = asking @ key[0].transpose(1, 2).unsqueeze(1)  # [G, heads / G, S, S]
    scores = scores if cap is None else cap * torch.tanh(scores / cap)
    weights = torch.softmax(torch.where(seen, scores, FORBIDDEN), dim=-1)
    rows = weights @ value[0].unsqueeze(1)
    return merge_heads(rows.reshape(1, heads, count, head_dim))
