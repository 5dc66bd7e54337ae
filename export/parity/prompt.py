"""What both sides of a decoder's parity check begin with."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from torch import Tensor


@dataclass(frozen=True)
class Prompt:
    """PyTorch's own rows of a prompt at one rung.

    Args:
        embeds: [1, n, D], text and visual rows.
        visual: which of them are visual.
        made: the outputs of compress, where the decoder reads more of tokens than their rows.
    """

    embeds: Tensor
    visual: range
    budget: int
    made: dict[str, Tensor] | None = None

    @property
    def start(self) -> int:
        """The first visual row."""
        return self.visual.start

    def cut(self, rows: int) -> Prompt:
        """The same without what follows the first so many rows."""
        return replace(self, embeds=self.embeds[:, :rows])

    @property
    def rows(self) -> npt.NDArray[np.float32]:
        """[n, D]."""
        rows: npt.NDArray[np.float32] = self.embeds[0].numpy()
        return rows
