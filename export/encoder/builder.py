"""All graphs of an encoder's bundle: one per rung, and one for texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from edgetok import names
from edgetok.bundle.manifest import Weights
from edgetok.export.attention import Lowering, StageModule
from edgetok.export.builder import build_graph
from edgetok.export.encoder.graphs import Describe, Encode
from edgetok.export.graph import Graph, Progress, StageSpec
from edgetok.export.lowering.flavours import list_lowerings
from edgetok.export.lowering.quantize import ENCODER_BITS
from edgetok.export.lowering.weight_file import WeightStore
from edgetok.families.encoder_parts import EncoderParts
from edgetok.methods.inside import Inside
from edgetok.scratch import Scratch


@dataclass
class EncoderBuilder:
    """Builds the graphs of one bundle over one weights file; weights wait in `scratch`."""

    parts: EncoderParts
    inside: Inside
    budgets: Sequence[int]
    weights: Weights
    flavour: str = "ort"
    scratch: Scratch = field(default_factory=Scratch)

    def __post_init__(self) -> None:
        self.store = WeightStore(self.scratch)
        bits = ENCODER_BITS[self.weights]
        self.lowerings = list_lowerings(self.flavour, bits, self.scratch)

    def build(self, progress: Progress) -> list[Graph]:
        """Rung by rung, then the texts', in each flavour."""
        jobs = [(spec, each) for each in self.lowerings for spec in self.list_stages(each)]
        graphs = []
        for done, (spec, lowering) in enumerate(jobs):
            progress(spec.title.replace("_", " "), done / len(jobs))
            graphs.append(build_graph(spec, lowering, self.store))
        return graphs

    def list_stages(self, lowering: Lowering) -> list[StageSpec]:
        """Stages of one flavour."""
        found = [
            StageSpec(names.ENCODE, k, partial(self._encode, k, lowering)) for k in self.budgets
        ]
        if self.parts.text is not None:
            text = partial(Describe, self.parts.text.module, self.parts.text.length)
            found.append(StageSpec(names.DESCRIBE, None, text))
        return found

    def _encode(self, budget: int, lowering: Lowering) -> StageModule:
        return Encode(self.parts, self.inside, budget, lowering.fused_attention)
