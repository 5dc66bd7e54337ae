"""All graphs of a bundle: stages traced, spelled, quantized, and cut off from their weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir
import torch
from torch import Tensor, nn

from edgetok import names
from edgetok.bundle.manifest import Flavour, KvPrecision, Stage, Weights
from edgetok.bundle.manifest import Tensor as TensorSpec
from edgetok.export import reducing, stages
from edgetok.export.attention import DecoderSpelling
from edgetok.export.external import WeightStore
from edgetok.export.flavours import fusion, ort, portable, portable_cache
from edgetok.export.trace import quiet, trace
from edgetok.export.weights import BITS, Quantizer
from edgetok.families.parts import Parts
from edgetok.kv.stores import slots as slot_store
from edgetok.ladder import Ladder
from edgetok.methods import Method

Scales = list[tuple[Tensor, Tensor]]
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Graph:
    """One graph: its entry in the manifest and its bytes, which point into the weights file."""

    stage: Stage
    data: bytes


@dataclass
class GraphBuilder:
    """Builds the graphs of one bundle over one weights file.

    Args:
        scales: per layer key and value scales [1, G, 1, H] of a quantized cache, or None for
            float32.
        flavour: `portable` adds the same stages in this form, beside those of `ort`.
        kv_bits: of a quantized cache.
    """

    parts: Parts
    method: Method
    ladder: Ladder
    weights: Weights
    scales: Scales | None
    flavour: Flavour = "ort"
    kv_bits: int = 8

    def __post_init__(self) -> None:
        self.store = WeightStore()
        self._quantizer = Quantizer()

    @property
    def kv(self) -> KvPrecision:
        return "fp32" if self.scales is None else "int4" if self.kv_bits == 4 else "int8"

    def build(self, progress: Progress) -> list[Graph]:
        """Every stage, the shared ones first, then rung by rung."""
        budgets = self.ladder.budgets
        towers = [None] if self.method.inside is None else budgets
        jobs: list[tuple[str, int | None]] = [("tower", k) for k in towers]
        jobs += [("embed", None), ("decode", None)]
        jobs += [(name, k) for k in budgets for name in ("compress", "prefill")]
        spelled: list[tuple[str, int | None, Flavour]] = [(*job, "ort") for job in jobs]
        if self.flavour == "portable":
            spelled += [(*job, "portable") for job in jobs]
        graphs = []
        for done, (name, budget, flavour) in enumerate(spelled):
            progress(f"{name} {budget or ''}".strip(), done / len(spelled))
            graphs.append(self.build_one(name, budget, flavour))
        return graphs

    def build_one(self, name: str, budget: int | None, flavour: Flavour = "ort") -> Graph:
        """One stage, of a rung unless all rungs share it."""
        title = name if budget is None else f"{name}_{budget}"
        with quiet():
            model = self._spell(name, budget, flavour, title)
        stage = Stage(
            stage=name,  # type: ignore[arg-type]  # one of the literal's names
            bucket=budget,
            flavour=flavour,
            file=f"onnx/{flavour}/{title}.onnx",
            inputs=[_describe(value) for value in model.graph.inputs],
            outputs=[_describe(value) for value in model.graph.outputs],
        )
        return Graph(stage, self.store.externalize(model))

    def _spell(self, name: str, budget: int | None, flavour: Flavour, title: str) -> ir.Model:
        """A stage traced, rewritten and quantized as its flavour has it."""
        module, inputs, outputs = self._stage(name, budget, flavour)
        if flavour == "ort":
            model = fusion.fuse(trace(module, inputs, outputs, title))
            return self._quantizer.quantize(model, name, BITS[self.weights])
        if isinstance(module, stages.Tower):
            module.attention = portable.TowerAttention
        if isinstance(module, reducing.ReducingTower):
            module.attention = portable.fused_attention
        with self._folded(module):
            model = trace(module, inputs, outputs, title, portable.OPSET)
        return portable.spell(model, name, BITS[self.weights])

    def _folded(self, module: nn.Module) -> AbstractContextManager[None]:
        if not isinstance(module, stages.Decoder):
            return nullcontext()
        return portable_cache.folded_values(self.parts.text.layers, self.scales)

    def _stage(
        self, name: str, budget: int | None, flavour: Flavour
    ) -> tuple[nn.Module, dict[str, Tensor], Sequence[str]]:
        build: dict[str, Callable[[int], tuple[nn.Module, dict[str, Tensor]]]] = {
            "tower": self._tower,
            "embed": self._embed,
            "decode": partial(self._decode, self._spelling(flavour)),
            "compress": self._compress,
            "prefill": partial(self._prefill, self._spelling(flavour)),
        }
        module, inputs = build[name](budget or 0)
        return module.eval(), inputs, module.outputs  # type: ignore[return-value]

    def _tower(self, budget: int) -> tuple[nn.Module, dict[str, Tensor]]:
        tower: nn.Module = (
            stages.Tower(self.parts.vision, self.method.tower_needs)
            if self.method.inside is None
            else reducing.ReducingTower(self.parts.vision, self.method.inside, budget)
        )
        return tower, {names.PIXELS: torch.zeros(1, 3, *self.parts.vision.image_px)}

    def _embed(self, _: int) -> tuple[nn.Module, dict[str, Tensor]]:
        ids = torch.zeros(self.prompt_tokens, dtype=torch.int64)
        return stages.Embed(self.parts.text), {names.TOKEN_IDS: ids}

    def _compress(self, budget: int) -> tuple[nn.Module, dict[str, Tensor]]:
        vision = self.parts.vision
        if self.method.inside is not None:
            return reducing.Project(self.parts), reducing.project_inputs(vision, budget)
        n, width, head = vision.full_tokens, vision.width, vision.width // vision.heads
        shapes = {
            names.KEYS: (n, head),
            names.CLS_FEATURE: (1, width),
            names.NEXT_KEYS: (n, width),
            names.TEXT_EMBEDS: (self.prompt_tokens, self.parts.text.hidden),
            names.TEXT_MASK: (self.prompt_tokens,),
        }
        inputs = {names.FEATURES: torch.rand(n, width)}
        compress = stages.Compress(self.parts, self.method, budget)
        return compress, inputs | {
            name: torch.rand(*shapes.get(name, (n,))) for name in compress.needs
        }

    def _spelling(self, flavour: Flavour) -> DecoderSpelling:
        return ort.DECODER if flavour == "ort" else portable_cache.spelling_of(self.kv)

    def _prefill(
        self, spelling: DecoderSpelling, budget: int
    ) -> tuple[nn.Module, dict[str, Tensor]]:
        rows = self.ladder.bucket(budget).prefill_tokens
        inputs = {
            names.INPUT_EMBEDS: torch.zeros(1, rows, self.parts.text.hidden),
            names.LAST_ROW: torch.zeros(1, dtype=torch.int64),
            names.PAST_LENGTHS: torch.zeros(self.layers, dtype=torch.int32),
        }
        prefill = stages.Prefill(self.parts.text, self.slots, self.scales, spelling)
        return prefill, inputs | self._past(spelling)

    def _decode(self, spelling: DecoderSpelling, _: int) -> tuple[nn.Module, dict[str, Tensor]]:
        inputs = {
            names.TOKEN_ID: torch.zeros(1, 1, dtype=torch.int64),
            names.PAST_LENGTHS: torch.zeros(self.layers, dtype=torch.int32),
            names.POSITIONS: torch.zeros(self.layers, 1, dtype=torch.int64),
        }
        decode = stages.Decode(self.parts.text, self.slots, self.scales, spelling)
        return decode, inputs | self._past(spelling)

    @property
    def prompt_tokens(self) -> int:
        return self.ladder.largest.prompt_tokens

    @property
    def layers(self) -> int:
        return len(self.parts.text.layers)

    @property
    def slots(self) -> int:
        return self.ladder.largest.cache_slots

    def _past(self, spelling: DecoderSpelling) -> dict[str, Tensor]:
        text = self.parts.text
        dtype = torch.float32 if self.scales is None else torch.int8
        width = text.head_dim if self.kv != "int4" else slot_store.width_of(text.head_dim, 4)
        levels = torch.zeros(1, text.kv_heads, self.slots, width, dtype=dtype)
        scales = torch.zeros(1, text.kv_heads, self.slots, 1)
        order = spelling.past(len(text.layers))
        return {name: (scales if "_scale_" in name else levels).clone() for name in order}


def _describe(value: ir.Value) -> TensorSpec:
    dtype = str(value.dtype).lower().replace("float", "float32") if value.dtype else ""
    shape = [int(dim) for dim in value.shape]
    return TensorSpec(name=str(value.name), dtype=dtype, shape=shape)  # type: ignore[arg-type]
