"""Gives a PyTorch model the weights that its quantized graphs hold.

A quantized graph is proved against PyTorch with the same dequantized weights, not against float32:
what is left is the arithmetic of the graph, so the gate can be narrow however coarse the weights
are. How much the coarser weights cost is reported beside it, end to end.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from edgetok.bundle.manifest import Weights
from edgetok.export.weights import BITS, dequantize_matrix, is_quantizable, quantize_matrix
from edgetok.families.parts import Parts


def hold_quantized(parts: Parts, weights: Weights) -> None:
    """Round the weights of `parts` in place, by the bits of their stages; fp32 changes nothing."""
    bits = BITS[weights]
    if not bits:
        return
    for modules, stage in (
        (parts.vision.blocks, "tower"),
        ((parts.projector,), "compress"),
        (parts.text.layers, "decode"),
        ((parts.text.head,), "head"),
    ):
        for linear in _linears(modules):
            _round(linear, bits[stage])


def _linears(modules: Iterable[nn.Module]) -> Iterable[nn.Linear]:
    for module in modules:
        yield from (inner for inner in module.modules() if isinstance(inner, nn.Linear))


def _round(linear: nn.Linear, bits: int) -> None:
    weight = linear.weight.detach().numpy().T  # [K, N], as graphs hold it
    if is_quantizable(weight):
        rounded = dequantize_matrix(*quantize_matrix(weight, bits), weight.shape[0], bits)
        # A new parameter, since a head may share its old one with the embedding.
        linear.weight = nn.Parameter(torch.from_numpy(rounded.T.copy()), requires_grad=False)
