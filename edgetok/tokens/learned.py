"""A learned scorer: separable convolutions along the raster, from one score to another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgetok.tokens.scorers import on_relative_grid


@dataclass(frozen=True, eq=False)
class Separable:
    """One layer: a filter per channel along the raster, then a mixture of the channels.

    Args:
        filters: [C, 1, W], W odd.
        filter_bias: [C].
        mixture: [E, C, 1].
        mixture_bias: [E].
    """

    filters: Tensor
    filter_bias: Tensor
    mixture: Tensor
    mixture_bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """[1, C, N] -> [1, E, N], zeros beyond both ends."""
        channels, _, width = self.filters.shape
        filtered = torch.nn.functional.conv1d(
            x, self.filters, self.filter_bias, padding=width // 2, groups=channels
        )
        return torch.nn.functional.conv1d(filtered, self.mixture, self.mixture_bias)


def score_learned(scores: Tensor, layers: tuple[Separable, ...]) -> Tensor:
    """Scores of mean 1 through the layers, ReLU between them, on a relative grid: [N] -> [N]."""
    x = scores.reshape(1, 1, -1)
    for number, layer in enumerate(layers):
        x = layer(x if number == 0 else x.relu())
    return on_relative_grid(x.flatten())
