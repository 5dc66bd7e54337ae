"""Short convolutions of a decoder (LFM2): what a few rows left there is a cache of its own.

A layer of this kind has no keys and values. Each of its channels is a causal convolution of J rows,
so all that a later row needs are the J - 1 rows before it, whatever the length of the text.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgetok.families.internals import TracedCache
from edgetok.families.parts import TextParts


class Convolutions(TracedCache):
    """Stands in for Hugging Face's cache while layers are traced; rows of attention pass through.

    Args:
        text: the decoder.
        past: of each convolution [1, D, J - 1], oldest first; none where rows begin a cache.
        lengths: int32 [L], true rows minus one, where rows begin a cache and are padded on the
            right; None where all rows are true.
    """

    def __init__(self, text: TextParts, past: tuple[Tensor, ...], lengths: Tensor | None) -> None:
        self._past, self._lengths, self._reach = past, lengths, text.kernel - 1
        self.present: list[Tensor] = []

    def convolve(self, rows: Tensor) -> Tensor:
        if self._lengths is None:
            joined = torch.cat([self._past[len(self.present)], rows], dim=2)
            self.present.append(joined[:, :, -self._reach :])
            return joined
        # Zeros stand before the first row; what pads the prompt is not to be remembered.
        zeros = torch.zeros(1, rows.shape[1], self._reach)
        last = self._lengths[:1].to(torch.int64) + 1 + torch.arange(self._reach)
        self.present.append(torch.cat([zeros, rows], dim=2).index_select(2, last))
        return rows
