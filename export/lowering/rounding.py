"""Gives a PyTorch model the weights that its quantized graphs hold.

A quantized graph is compared with PyTorch with the same dequantized weights, not against float32:
what is left is the arithmetic of the graph, so limits can be narrow however coarse the weights
are. How much the coarser weights cost is reported beside it, end to end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgetok.bundle.manifest import Flavour, Weights
from edgetok.export.attention import Scales
from edgetok.export.lowering import portable_decoder
from edgetok.export.lowering.levels import round_matrix
from edgetok.export.lowering.quantize import (
    BITS,
    dequantize_matrix,
    is_quantizable,
    quantize_matrix,
)
from edgetok.families.parts import Parts
from edgetok.scratch import Scratch

Matrix = npt.NDArray[np.float32]
Rounding = Callable[[Matrix, int], Matrix]


@contextmanager
def hold_rounded(
    parts: Parts, weights: Weights, flavour: Flavour, scales: Scales | None = None
) -> Iterator[None]:
    """Round the weights of `parts` as the graphs of a flavour do, for a time; fp32 changes nothing.

    `scales` are those of a quantized cache: portable graphs round output projections with the
    values' equaliser in them.
    """
    bits, vision = BITS[weights], parts.vision
    projectors = (parts.projector, *parts.deepstack_projectors)
    tower = (*vision.blocks, *vision.stems)
    stages = {"tower": tower, "compress": projectors, "head": (parts.text.head,)}
    rounding = round_matrix if flavour == "portable" else _round_as_stored
    in_blocks = flavour == "ort" and not parts.text.is_tied
    with ExitStack() as stack:
        for stage, modules in stages.items():
            if stage in bits:
                stack.enter_context(round_linears(modules, bits[stage], rounding, parts.scratch))
        if "table" in bits:
            table, own = (parts.text.embed,), bits["table"]
            rounds = _round_blocks if in_blocks else rounding
            stack.enter_context(round_weights(table, own, rounds, parts.scratch))
        if "decode" in bits and flavour == "portable":
            stack.enter_context(_rounded_layers(parts, bits["decode"], scales))
        elif "decode" in bits:
            layers, own = parts.text.layers, bits["decode"]
            stack.enter_context(round_linears(layers, own, rounding, parts.scratch))
        yield


@contextmanager
def _rounded_layers(parts: Parts, bits: int, scales: Scales | None) -> Iterator[None]:
    factors = portable_decoder.factors_of(parts.text.attending, scales)
    with ExitStack() as stack:
        for layer in parts.text.layers:
            linears = [m for m in layer.modules() if isinstance(m, nn.Linear)]
            for linear in linears:
                rounding = _round_folded(factors.get(id(linear)))
                stack.enter_context(round_linears((linear,), bits, rounding, parts.scratch))
        yield


def _round_folded(factors: Tensor | None) -> Rounding:
    """Round a matrix whose rows are multiplied by `factors` [K], and take them out again."""
    if factors is None:
        return round_matrix
    by = factors.numpy()[:, None]
    return lambda weight, bits: round_matrix(weight * by, bits) / by


@contextmanager
def round_linears(
    modules: Iterable[nn.Module],
    bits: int,
    rounding: Rounding | None = None,
    scratch: Scratch | None = None,
) -> Iterator[None]:
    """Round some modules for a time, to see what their precision alone costs.

    `rounding` takes a weight [K, N] and bits; that of the `ort` flavour if None.
    """
    linears, scratch = list(_linears(modules)), scratch or Scratch()
    with round_weights(linears, bits, rounding or _round_as_stored, scratch):
        yield


@contextmanager
def round_weights(
    owners: Sequence[nn.Linear | nn.Embedding], bits: int, rounding: Rounding, scratch: Scratch
) -> Iterator[None]:
    """Round the matrix of each for a time: [N, K] of a linear, or a table [V, D]."""
    before = [owner.weight for owner in owners]
    try:
        for owner in owners:
            owner.weight = _rounded(owner.weight, bits, rounding, scratch)
        yield
    finally:
        for owner, weight in zip(owners, before, strict=True):
            owner.weight = weight


def _linears(modules: Iterable[nn.Module]) -> Iterable[nn.Linear]:
    for module in modules:
        yield from (inner for inner in module.modules() if isinstance(inner, nn.Linear))


def _round_as_stored(weight: Matrix, bits: int) -> Matrix:
    """As the `ort` flavour stores a matrix: by columns at 8 bits, in blocks at 4."""
    return round_matrix(weight, bits) if bits == 8 else _round_blocks(weight, bits)


def _round_blocks(weight: Matrix, bits: int) -> Matrix:
    return dequantize_matrix(*quantize_matrix(weight, bits), weight.shape[0], bits)


def _rounded(parameter: Tensor, bits: int, rounding: Rounding, scratch: Scratch) -> nn.Parameter:
    """A new parameter, since a head may share its old one with the embedding."""
    weight = parameter.detach().numpy().T  # [K, N], as graphs hold it
    if not is_quantizable(weight):
        return nn.Parameter(parameter, requires_grad=False)
    rounded = scratch.hold(rounding(weight, bits).T)
    return nn.Parameter(torch.from_numpy(rounded), requires_grad=False)
