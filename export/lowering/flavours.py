"""The two flavours: what a stage becomes in each, from its trace to rounded weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir

from edgetok.bundle.manifest import Flavour
from edgetok.export.attention import DecoderLowering, Lowering, StageModule
from edgetok.export.lowering import fusion, opset20, ort, portable, portable_decoder
from edgetok.export.lowering.ort_eviction import PackingAttention
from edgetok.export.lowering.portable_eviction import SlotPacking, StandardPacking
from edgetok.export.lowering.quantize import Quantizer
from edgetok.export.lowering.quantize_embedding import gather_blocks, gather_columns
from edgetok.export.lowering.trace import trace
from edgetok.scratch import Scratch

# What users ask for: the flavour that is added to `ort`, and its opset.
FLAVOURS: dict[str, tuple[Flavour, int]] = {
    "ort": ("ort", portable.OPSET),
    "portable": ("portable", portable.OPSET),
    "portable-20": ("portable", opset20.OPSET),
}


class OrtLowering:
    """Fused operators of ONNX Runtime, with products of whole numbers.

    Args:
        bits: of the weights of each stage, as `quantize.BITS` has them.
        tied: whether the embedding is the head as well.
    """

    flavour: Flavour = "ort"
    tower_attention = ort.TowerAttention
    fused_attention = staticmethod(ort.fused_attention)

    def __init__(self, bits: Mapping[str, int], scratch: Scratch, tied: bool = False) -> None:
        self._bits, self._quantizer, self._tied = bits, Quantizer(scratch), tied

    def decoder(self, kv: str) -> DecoderLowering:
        return ort.lower_decoder(kv)

    def packing(self, scaled: bool) -> Callable[..., Any]:
        return PackingAttention

    def lower(self, module: StageModule, stage: str, title: str) -> ir.Model:
        model = fusion.fuse(trace(module, module.inputs, module.outputs, title))
        if "table" in self._bits and self._tied:
            gather_columns(model)
        elif "table" in self._bits:
            gather_blocks(model, self._bits["table"])
        return self._quantizer.quantize(model, stage, self._bits)

    def make_unpack(self) -> ir.Model | None:
        return self._quantizer.make_unpack()


class PortableLowering:
    """Standard operators, weights after DequantizeLinear.

    Args:
        bits: as of `OrtLowering`.
        opset: 24 or 20.
    """

    flavour: Flavour = "portable"
    tower_attention = portable.TowerAttention
    fused_attention = staticmethod(portable.fused_attention)

    def __init__(self, bits: Mapping[str, int], opset: int = portable.OPSET) -> None:
        self._bits, self._opset = bits, opset

    def decoder(self, kv: str) -> DecoderLowering:
        return portable_decoder.lower_decoder(kv)

    def packing(self, scaled: bool) -> Callable[..., Any]:
        return SlotPacking if scaled else StandardPacking

    def lower(self, module: StageModule, stage: str, title: str) -> ir.Model:
        with module.tracing():
            model = trace(module, module.inputs, module.outputs, title, portable.OPSET)
        model = portable.lower(model, stage, self._bits)
        return opset20.lower(model) if self._opset == opset20.OPSET else model

    def make_unpack(self) -> ir.Model | None:
        return None  # an engine multiplies what DequantizeLinear gives it


def list_lowerings(
    asked: str, bits: Mapping[str, int], scratch: Scratch, tied: bool = False
) -> list[Lowering]:
    """Those of a bundle: `ort` always, and `portable` where it is asked for."""
    flavour, opset = FLAVOURS[asked]
    found: list[Lowering] = [OrtLowering(bits, scratch, tied)]
    return found if flavour == "ort" else [*found, PortableLowering(bits, opset)]
