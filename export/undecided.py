"""Choices that PyTorch itself leaves open: they fall otherwise when pixels move by millionths.

Two programs never make the same features to the last bit, and where two candidates are all but
equally good, those bits decide. What a graph does there says nothing of whether it is right.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import torch
from torch import Tensor

from edgetok import names
from edgetok.export.cases import Case

if TYPE_CHECKING:
    from edgetok.export.reference import Reference

NUDGE = 3e-6  # of a pixel: features of graph and PyTorch lie 1e-6 to 5e-6 of their largest apart
NUDGES = 8


def nudged(pixels: Tensor) -> Iterator[Tensor]:
    """The same picture, all but; a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(NUDGES):
        yield pixels * (1 + NUDGE * torch.randn(pixels.shape, generator=generator))


def keeps_otherwise(reference: Reference, case: Case, budget: int, kept: npt.NDArray[Any]) -> bool:
    """Whether PyTorch keeps something else than `kept` [K] of a picture that hardly differs."""
    for pixels in nudged(case.pixels):
        seen = reference.look(replace(case, pixels=pixels), budget)
        if (reference.compress(seen, budget)[names.KEPT].numpy() != kept).any():
            return True
    return False
