"""Short convolutions of a decoder (LFM2): what a few rows left there is a cache of its own.

A layer of this kind has no keys and values. Each of its channels is a causal convolution of J rows,
so all that a later row needs are the J - 1 rows before it, whatever the length of the text.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgetok.families.parts import TextParts


class Convolutions:
    """Stands in for Hugging Face's cache while layers are traced.

    transformers passes more arguments to a cache from one release to the next (5.24: `kwargs` of
    the call); what a cache of this kind has no use for is taken and ignored.

    Args:
        text: the decoder.
        past: of each convolution [1, D, J - 1], oldest first; none where rows begin a cache.
        lengths: int32 [L], true rows minus one, where rows begin a cache and are padded on the
            right; None where all rows are true.
    """

    def __init__(self, text: TextParts, past: tuple[Tensor, ...], lengths: Tensor | None) -> None:
        self._past, self._lengths, self._reach = past, lengths, text.kernel - 1
        self.present: list[Tensor] = []

    def get_conv_state(self, layer_idx: int, **_: Any) -> None:
        """Nothing that the layer might update in place: it then asks `update_conv_state`."""

    def update_conv_state(self, conv_states: Tensor, layer_idx: int, **_: Any) -> Tensor:
        """Rows [1, D, S] of the next convolution -> with those before them in front."""
        if self._lengths is None:
            rows = torch.cat([self._past[len(self.present)], conv_states], dim=2)
            self.present.append(rows[:, :, -self._reach :])
            return rows
        # Zeros stand before the first row; what pads the prompt is not to be remembered.
        zeros = torch.zeros(1, conv_states.shape[1], self._reach)
        last = self._lengths[:1].to(torch.int64) + 1 + torch.arange(self._reach)
        self.present.append(torch.cat([zeros, conv_states], dim=2).index_select(2, last))
        return conv_states

    def update(
        self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Rows of attention as they are: its operator puts them into the KV cache."""
        return key, value
