"""Choices that PyTorch itself leaves open: they fall otherwise when pixels move by millionths.

Two programs never make the same features to the last bit, and where two candidates are all but
equally good, those bits decide. What a graph keeps there need be no nearer to what PyTorch keeps
than PyTorch comes to it itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgetok import names
from edgetok.export.cases import Case
from edgetok.export.reference.model import Reference

NUDGE = 3e-6  # of a pixel; features of graph and PyTorch lie 1e-6 to 5e-6 of their largest apart
LAST_BIT = 1e-7
NUDGES = 8
SLACK = 0.05  # of the tokens: eight nudges are a small sample of what may fall otherwise
Kept = npt.NDArray[Any]


def nudged(values: Tensor, by: float = NUDGE, unit: float = 1.0) -> Iterator[Tensor]:
    """All but the same values; a fixed seed. Those below `unit` move by as much as a unit does."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(NUDGES):
        noise = by * torch.randn(values.shape, generator=generator)
        yield values + noise * values.abs().clamp(min=unit)


def is_as_open(
    reference: Reference, seens: Iterator[dict[str, Tensor]], budget: int, kept: Kept, got: Kept
) -> bool:
    """Whether `got` [K] is as near to what PyTorch kept as PyTorch is itself, when nudged.

    `seens` are what it sees of images that hardly differ; never, if it keeps the same of all.
    """
    others = (reference.compress(seen, budget)[names.KEPT].numpy() for seen in seens)
    least = min(shared(other, kept) for other in others)
    return least < 1 and shared(got, kept) >= least - SLACK


def nudged_pictures(reference: Reference, case: Case, budget: int) -> Iterator[dict[str, Tensor]]:
    """What PyTorch sees when pixels move by millionths."""
    for pixels in nudged(case.pixels):
        yield reference.look(replace(case, pixels=pixels), budget)


def nudged_features(seen: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """What it sees when features move in their last bit."""
    for features in nudged(seen[names.FEATURES], LAST_BIT, 0.0):
        yield {**seen, names.FEATURES: features}


def shared(got: Kept, kept: Kept) -> float:
    """The part of `kept` that `got` keeps too."""
    return len(np.intersect1d(got, kept)) / len(np.unique(kept))
