"""Rounding a decoder's matrices to 4 bits so that what they make of real rows changes least.

Each row of a weight W [N, K] is rounded column by column, and what a column loses is made up for in
those that are not rounded yet (GPTQ, arXiv 2210.17323): with H = X^T X of the rows X [n, K] that
the matrix reads, damped by a hundredth of its mean diagonal, and U the upper Cholesky factor of its
inverse, column i loses e = (w_i - round(w_i)) / U_ii, and e U_ij is taken from every later column
j. Columns go by falling H_ii. Scales of blocks are chosen before, for errors weighted by H_ii.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgetok.export.lowering.blocks import choose_block, choose_scales
from edgetok.scratch import Scratch

Array = npt.NDArray[np.float32]
DAMPING = 0.01  # of the mean diagonal; the authors' own
ROWS = 2048  # of each layer's input, kept for H: a few prompts with all their visual tokens
SMALLEST = 1e-12  # of H's diagonal, where a channel was never used
LAZY = 32  # columns whose corrections reach those after them at once


@dataclass(frozen=True)
class RoundedWeights:
    """Weights of some matrices that are rounded already: `quantize_matrix` gives them back."""

    weights: dict[nn.Linear, nn.Parameter] = field(default_factory=dict)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Give the modules these weights for a time."""
        before: dict[nn.Linear, Any] = {linear: linear.weight for linear in self.weights}
        try:
            for linear, weight in self.weights.items():
                linear.weight = weight
            yield
        finally:
            for linear, weight in before.items():
                linear.weight = weight


@dataclass
class Inputs:
    """Rows that Linears were seen to read; those of one input read the same rows."""

    scratch: Scratch
    readers: dict[nn.Linear, int] = field(default_factory=dict)
    rows: dict[int, list[Any]] = field(default_factory=dict)
    _last: tuple[int, Tensor] | None = None

    @contextmanager
    def watch(self, layers: Iterable[nn.Module]) -> Iterator[None]:
        """Record every forward pass of these layers."""
        with ExitStack() as stack:
            for layer in layers:
                for module in layer.modules():
                    if isinstance(module, nn.Linear):
                        stack.callback(module.register_forward_pre_hook(self._read).remove)
            yield
        self._last = None

    def _read(self, linear: nn.Linear, given: tuple[Tensor, ...]) -> None:
        if self._last is None or self._last[1] is not given[0]:
            self._last = self.readers.get(linear, len(self.readers)), given[0]
            self._keep(*self._last)
        self.readers.setdefault(linear, self._last[0])

    def _keep(self, number: int, given: Tensor) -> None:
        kept = self.rows.setdefault(number, [])
        room = ROWS - sum(len(each) for each in kept)
        if room > 0:
            rows = given.detach().reshape(-1, given.shape[-1])[-room:]
            kept.append(self.scratch.hold(rows.float().numpy()))

    def list_groups(self) -> Iterator[tuple[list[nn.Linear], Tensor]]:
        """Linears that read the same, and H [K, K]."""
        for number, kept in self.rows.items():
            linears = [linear for linear, own in self.readers.items() if own == number]
            rows = torch.from_numpy(np.concatenate(kept))
            yield linears, rows.T @ rows


@torch.no_grad()
def round_layers(
    layers: Sequence[nn.Module], passes: Iterable[Any], bits: int, scratch: Scratch
) -> RoundedWeights:
    """Round the Linears of some layers.

    Args:
        passes: runs the model once for each item that it is asked for.
    """
    inputs, found = Inputs(scratch), RoundedWeights()
    with inputs.watch(layers):
        for _ in passes:
            pass
    for linears, moment in inputs.list_groups():
        weight = torch.cat([linear.weight.detach() for linear in linears])
        rounded = round_weight(weight, moment, bits)
        ends = np.cumsum([len(linear.weight) for linear in linears])
        for linear, own in zip(linears, np.split(rounded.numpy(), ends[:-1]), strict=True):
            held = torch.from_numpy(scratch.hold(own))
            found.weights[linear] = nn.Parameter(held, requires_grad=False)
    return found


def round_weight(weight: Tensor, moment: Tensor, bits: int) -> Tensor:
    """W [N, K] on the levels of its blocks, for rows whose X^T X is `moment` [K, K]."""
    width, half = weight.shape[1], 1 << (bits - 1)
    size = choose_block(width, bits)
    importance = moment.diagonal().clamp_min(SMALLEST)
    scales = _scales_of(weight, importance, size, half)
    order = torch.argsort(importance, descending=True, stable=True)
    damped = moment[order][:, order] + DAMPING * importance.mean() * torch.eye(width)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    upper = torch.linalg.cholesky(inverse, upper=True).numpy()
    columns = weight[:, order].T.contiguous().numpy()
    _round_columns(columns, scales[:, order // size].T.contiguous().numpy(), upper, half)
    return torch.from_numpy(columns)[torch.argsort(order)].T.contiguous()


def _round_columns(columns: Array, scales: Array, upper: Array, half: int) -> None:
    """Round columns [K, N] in place, one after another, each with scales [N] of its own."""
    width = len(columns)
    for first in range(0, width, LAZY):
        last = min(first + LAZY, width)
        lost = np.empty_like(columns[first:last])
        for i in range(first, last):
            rounded = np.clip(np.rint(columns[i] / scales[i]), -half, half - 1) * scales[i]
            error = lost[i - first] = (columns[i] - rounded) / upper[i, i]
            columns[i] = rounded
            columns[i + 1 : last] -= np.outer(upper[i, i + 1 : last], error)
        columns[last:] -= upper[first:last, last:].T @ lost


def _scales_of(weight: Tensor, importance: Tensor, size: int, half: int) -> Tensor:
    """Scales [N, blocks]."""
    rows = torch.nn.functional.pad(weight, (0, -weight.shape[1] % size)).numpy()
    by = torch.nn.functional.pad(importance, (0, -len(importance) % size)).numpy()
    grouped = rows.reshape(len(rows), -1, size)
    return torch.from_numpy(choose_scales(grouped, half, by.reshape(-1, size))[..., 0])
