"""All graphs of an encoder's bundle: one per rung, and one for texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir
import torch
from torch import Tensor, nn

from edgetok import names
from edgetok.bundle.manifest import Flavour, Stage, Weights
from edgetok.export.builder import Graph, describe_tensor
from edgetok.export.encoder.graphs import Describe, Encode
from edgetok.export.lowering import fusion, portable
from edgetok.export.lowering.quantize import Quantizer
from edgetok.export.lowering.trace import quiet, trace
from edgetok.export.lowering.weight_file import WeightStore
from edgetok.families.encoder_parts import EncoderParts
from edgetok.methods.inside import Inside
from edgetok.scratch import Scratch

# Of all matrices alike: an encoder is its tower, so that keeping it at 8 bits would keep all.
BITS = {"fp32": 0, "int8": 8, "int4": 4}


@dataclass
class EncoderBuilder:
    """Builds the graphs of one bundle over one weights file; weights wait in `scratch`."""

    parts: EncoderParts
    inside: Inside
    budgets: Sequence[int]
    weights: Weights
    flavour: Flavour = "ort"
    scratch: Scratch = field(default_factory=Scratch)

    def __post_init__(self) -> None:
        self.store = WeightStore(self.scratch)
        self._quantizer = Quantizer(self.scratch)

    def build(self, progress: Callable[[str, float], None]) -> list[Graph]:
        """Rung by rung, then the texts', in each flavour."""
        flavours: list[Flavour] = ["ort"] if self.flavour == "ort" else ["ort", "portable"]
        buckets: list[int | None] = [*self.budgets]
        buckets += [None] if self.parts.text is not None else []
        jobs = [(bucket, flavour) for flavour in flavours for bucket in buckets]
        graphs = []
        for done, (bucket, flavour) in enumerate(jobs):
            progress("texts" if bucket is None else f"encode {bucket}", done / len(jobs))
            graphs.append(self.build_one(bucket, flavour))
        return graphs

    def build_one(self, budget: int | None, flavour: Flavour) -> Graph:
        """The graph of a rung, or that of texts if there is no budget."""
        name = names.DESCRIBE if budget is None else names.ENCODE
        title = name if budget is None else f"{name}_{budget}"
        with quiet():
            model = self._spell(budget, flavour, title)
        stage = Stage(
            stage=name,  # type: ignore[arg-type]  # one of the literal's names
            bucket=budget,
            flavour=flavour,
            file=f"onnx/{flavour}/{title}.onnx",
            inputs=[describe_tensor(value) for value in model.graph.inputs],
            outputs=[describe_tensor(value) for value in model.graph.outputs],
        )
        return Graph(stage, self.store.externalize(model))

    def _spell(self, budget: int | None, flavour: Flavour, title: str) -> ir.Model:
        module, inputs = self._stage(budget, flavour)
        outputs, bits = list(module.outputs), BITS[self.weights]  # type: ignore[arg-type]
        each = {names.ENCODE: bits} if bits else {}
        if flavour == "ort":
            model = fusion.fuse(trace(module, inputs, outputs, title))
            return self._quantizer.quantize(model, names.ENCODE, each)
        model = trace(module, inputs, outputs, title, portable.OPSET)
        return portable.spell(model, names.ENCODE, each | ({"head": bits} if bits else {}))

    def _stage(self, budget: int | None, flavour: Flavour) -> tuple[nn.Module, dict[str, Tensor]]:
        if budget is None:
            assert self.parts.text is not None  # noqa: S101
            ids = torch.zeros(1, self.parts.text.length, dtype=torch.int64)
            return Describe(self.parts.text.module).eval(), {names.TOKEN_IDS: ids}
        module = Encode(self.parts, self.inside, budget)
        if flavour == "portable":
            module.attention = portable.fused_attention
        pixels = torch.zeros(1, 3, *self.parts.vision.image_px)
        return module.eval(), {names.PIXELS: pixels}
