"""What LoCoCo learned for a layer (arXiv 2406.05317): weights of mixtures from a convolution."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import conv1d

HIDDEN = -1e30  # of a row that is none: finite, and exp of it is 0


@dataclass(frozen=True, eq=False)
class Mixer:
    """What was learned for one layer.

    Args:
        weight: float32 [m, 2 H, W], W odd: key channels first.
        bias: float32 [m].
        eta: share of the mixture, 0 to 1.
    """

    weight: Tensor
    bias: Tensor
    eta: float

    @property
    def slots(self) -> int:
        """Rows that are mixed."""
        return int(self.weight.shape[0])

    def weigh(self, rows: Tensor, true: Tensor) -> Tensor:
        """Weights of every mixture.

        Args:
            rows: float32 [G, n, 2 H].
            true: bool [G, n], false after the last true row.

        Returns:
            float32 [G, m, n], 0 at rows that are none.
        """
        seen = rows * true[..., None]  # as the zeros that a convolution finds beyond the end
        logits = conv1d(
            seen.transpose(1, 2), self.weight, self.bias, padding=self.weight.shape[2] // 2
        )
        return logits.masked_fill(~true[:, None], HIDDEN).softmax(-1)
