"""All graphs of a bundle: stages traced, spelled, quantized, and cut off from their weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from edgetok import names
from edgetok.bundle.manifest import Flavour, Stage, Weights
from edgetok.bundle.manifest import Tensor as TensorSpec
from edgetok.export.attention import DecoderSpelling
from edgetok.export.caches import ring as ringed
from edgetok.export.caches.evicting import graphs as keeping
from edgetok.export.caches.ring import RingShape
from edgetok.export.caches.think import graphs as pruned
from edgetok.export.caches.tidaldecode import graphs as reading
from edgetok.export.caches.zipcache import graphs as zipped
from edgetok.export.lowering import fusion, opset20, ort, portable
from edgetok.export.lowering import ort_eviction as packing
from edgetok.export.lowering import portable_decoder as portable_cache
from edgetok.export.lowering import portable_eviction as portable_packing
from edgetok.export.lowering.quantize import BITS, Quantizer
from edgetok.export.lowering.trace import quiet, trace
from edgetok.export.lowering.weight_file import WeightStore
from edgetok.export.stages import decoder
from edgetok.export.stages import prompt_reduced as prefilling
from edgetok.export.stages import prompt_segments as segments
from edgetok.export.stages import tower as stages
from edgetok.export.stages import tower_reducing as reducing
from edgetok.export.stages.prompt_bidirectional import BidirectionalPrefill
from edgetok.export.stages.prompt_mrope import MropePrefill
from edgetok.families.parts import Parts
from edgetok.kv import Reads, Room
from edgetok.kv.stores.kivi import KiviShape
from edgetok.kv.stores.think import ThinkShape
from edgetok.kv.stores.zipcache import ZipShape
from edgetok.ladder import Ladder
from edgetok.methods import Method
from edgetok.prefill import Prefill

CACHE_DTYPES = {"fp32": torch.float32, "int8": torch.int8, "int4": torch.uint8}
CHUNK_ROWS = 16  # a question of the demo model; see benchmarks/reuse.py

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
        scales: per layer key and value scales [1, G, 1, H] of an int8 or int4 cache, or None for
            float32.
        flavour: `portable` adds the same stages in this form, beside those of `ort`.
        prefill: what the prefill graphs take away between layers; None for nothing.
        kv_bits: of a cache that has scales.
        room: what each layer holds under a policy; None where every row stays.
        seed: of a policy that draws.
        ringed: constants of a KIVI cache or ZipCache; None where there is another one.
        reads: what a decode step reads of the cache; None for all.
        opset: of the `portable` graphs, 24 or 20.
    """

    parts: Parts
    method: Method
    ladder: Ladder
    weights: Weights
    scales: Scales | None
    flavour: Flavour = "ort"
    prefill: Prefill | None = None
    kv_bits: int = 8
    room: Room | None = None
    seed: int = 0
    ringed: RingShape | None = None
    reads: Reads | None = None
    opset: int = portable.OPSET

    def __post_init__(self) -> None:
        self.store = WeightStore(self.parts.scratch)
        self._quantizer = Quantizer(self.parts.scratch)

    @property
    def kv(self) -> str:
        return "fp32" if self.scales is None else "int4" if self.kv_bits == 4 else "int8"

    def build(self, progress: Progress) -> list[Graph]:
        """Every stage, the shared ones first, then rung by rung."""
        budgets = self.ladder.budgets
        towers = [None] if self.method.inside is None else budgets
        jobs: list[tuple[str, int | None]] = [("tower", k) for k in towers]
        extend = [(names.EXTEND, None)] if self.room is None and self.ringed is None else []
        packs = self.ringed is not None and self.ringed.group
        flush = [(names.FLUSH, None)] if packs else []
        jobs += [("embed", None), *extend, ("decode", None), *flush]
        jobs += [(name, k) for k in budgets for name in ("compress", "prefill")]
        layers = 0 if self.room is None else self.layers
        spelled: list[tuple[str, int | None, Flavour]] = [(*job, "ort") for job in jobs]
        if self.flavour == "portable":
            spelled += [(*job, "portable") for job in jobs]
        graphs = []
        for done, (name, budget, flavour) in enumerate(spelled):
            progress(f"{name} {budget or ''}".strip(), done / len(spelled))
            graphs.append(self.build_one(name, budget, flavour))
        used: list[Flavour] = ["ort", "portable"] if self.flavour == "portable" else ["ort"]
        graphs += [graph for each in used for graph in self.build_segments(each)]
        return graphs + [self.build_compact(n, each) for each in used for n in range(layers)]

    def build_segments(self, flavour: Flavour = "ort") -> list[Graph]:
        """The graphs behind the first one of a prefill in segments."""
        found = []
        for part in segments.list_segments(self.prefill, self.layers)[1:]:
            stages_of = [(names.SEGMENT, k) for k in self.ladder.budgets]
            for name, budget in [*stages_of, (names.EXITED, None)]:
                title = f"{name}_{part.start}" + ("" if budget is None else f"_{budget}")
                module, inputs = self._segment(flavour, budget, part)
                with quiet():
                    model = self._spelled(
                        "prefill", flavour, title, module.eval(), inputs, module.outputs
                    )
                found.append(self._graph(name, budget, flavour, title, model, part.start))
        return found

    def build_compact(self, layer: int, flavour: Flavour = "ort") -> Graph:
        """The graph that empties one layer's cache."""
        title = f"{names.COMPACT}_{layer}"
        assert self.room is not None  # noqa: S101
        bits = None if self.scales is None else self.kv_bits
        in_slots = flavour == "portable" and bits is not None
        kind = keeping.SlotCompact if in_slots else keeping.Compact
        scales = None if self.scales is None else self.scales[layer]
        module = kind(self.parts.text, self.positions, bits, self.room, layer, scales).eval()
        past = {
            name: value
            for name, value in self._past(self._spelling(flavour)).items()
            if name.endswith(f"_{layer}")
        }
        with quiet():
            if flavour == "ort":
                model = fusion.fuse(trace(module, past, module.outputs, title))
            else:
                made = trace(module, past, module.outputs, title, portable.OPSET)
                model = self._lowered(portable.spell(made, names.COMPACT, {}))
        return self._graph(names.COMPACT, None, flavour, title, model, layer)

    def build_one(self, name: str, budget: int | None, flavour: Flavour = "ort") -> Graph:
        """One stage, of a rung unless all rungs share it."""
        title = name if budget is None else f"{name}_{budget}"
        with quiet():
            model = self._spell(name, budget, flavour, title)
        return self._graph(name, budget, flavour, title, model)

    def _graph(
        self,
        name: str,
        budget: int | None,
        flavour: Flavour,
        title: str,
        model: ir.Model,
        layer: int | None = None,
    ) -> Graph:
        stage = Stage(
            stage=name,  # type: ignore[arg-type]  # one of the literal's names
            bucket=budget,
            flavour=flavour,
            file=f"onnx/{flavour}/{title}.onnx",
            inputs=[describe_tensor(value) for value in model.graph.inputs],
            outputs=[describe_tensor(value) for value in model.graph.outputs],
            layer=layer,
        )
        return Graph(stage, self.store.externalize(model))

    def _spell(self, name: str, budget: int | None, flavour: Flavour, title: str) -> ir.Model:
        """A stage traced, rewritten and quantized as its flavour has it."""
        return self._spelled(name, flavour, title, *self._stage(name, budget, flavour))

    def _spelled(
        self,
        name: str,
        flavour: Flavour,
        title: str,
        module: nn.Module,
        inputs: dict[str, Tensor],
        outputs: Sequence[str],
    ) -> ir.Model:
        if flavour == "ort":
            model = fusion.fuse(trace(module, inputs, outputs, title))
            return self._quantizer.quantize(model, name, BITS[self.weights])
        if isinstance(module, stages.Tower):
            module.attention = portable.TowerAttention
        if isinstance(module, reducing.ReducingTower):
            module.attention = portable.fused_attention
        with self._folded(module):
            model = trace(module, inputs, outputs, title, portable.OPSET)
        return self._lowered(portable.spell(model, name, BITS[self.weights]))

    def _lowered(self, model: ir.Model) -> ir.Model:
        return opset20.lower(model) if self.opset == opset20.OPSET else model

    def _folded(self, module: nn.Module) -> AbstractContextManager[None]:
        if not isinstance(module, decoder.Decoder):
            return nullcontext()
        return portable_cache.folded_values(self.parts.text.attending, self.scales)

    def _stage(
        self, name: str, budget: int | None, flavour: Flavour
    ) -> tuple[nn.Module, dict[str, Tensor], Sequence[str]]:
        build: dict[str, Callable[[int], tuple[nn.Module, dict[str, Tensor]]]] = {
            "tower": self._tower,
            "embed": self._embed,
            "flush": self._flush,
            "extend": partial(self._extend, self._spelling(flavour)),
            "decode": partial(self._decode, self._spelling(flavour)),
            "compress": self._compress,
            "prefill": partial(self._prefill, flavour),
        }
        module, inputs = build[name](budget or 0)
        return module.eval(), inputs, module.outputs  # type: ignore[return-value]

    def _tower(self, budget: int) -> tuple[nn.Module, dict[str, Tensor]]:
        tower: nn.Module = (
            stages.Tower(self.parts.vision, self.method.tower_needs)
            if self.method.inside is None
            else reducing.ReducingTower(self.parts.vision, self.method.inside, budget)
        )
        vision = self.parts.vision
        return tower, {names.PIXELS: torch.zeros(vision.n_parts, 3, *vision.image_px)}

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
            names.CLS_FEATURE: (vision.pictures, width),
            names.NEXT_KEYS: (n, width),
            names.DEEP_FEATURES: (n, len(vision.deepstack) * (vision.feature_width or width)),
            names.TEXT_EMBEDS: (self.prompt_tokens, self.parts.text.hidden),
            names.TEXT_MASK: (self.prompt_tokens,),
            names.PICTURE_WEIGHTS: (vision.pictures,),
        }
        inputs = {names.FEATURES: torch.rand(n, vision.feature_width or width)}
        compress = stages.Compress(self.parts, self.method, budget)
        return compress, inputs | {
            name: torch.rand(*shapes.get(name, (n,))) for name in compress.needs
        }

    def _spelling(self, flavour: Flavour) -> DecoderSpelling:
        spell = ort.spelling_of if flavour == "ort" else portable_cache.spelling_of
        return spell(self.kv)

    def _prefill(self, flavour: Flavour, budget: int) -> tuple[nn.Module, dict[str, Tensor]]:
        spelling = self._spelling(flavour)
        rows = self.ladder.bucket(budget).prefill_tokens
        inputs = {
            names.INPUT_EMBEDS: torch.zeros(1, rows, self.parts.text.hidden),
            names.LAST_ROW: torch.zeros(1, dtype=torch.int64),
            names.PAST_LENGTHS: torch.zeros(self.layers, dtype=torch.int32),
        }
        text, scales = self.parts.text, self.scales
        if self.room is not None:
            return self._packing_prefill(flavour, inputs)
        if isinstance(self.ringed, ThinkShape):
            return pruned.PruningPrefill(text, self.positions, self.ringed, spelling), inputs
        if self.ringed is not None:
            filling = (
                ringed.FillingPrefill(text, self.positions, self.ringed, spelling)
                if isinstance(self.ringed, KiviShape)
                else zipped.TieringPrefill(text, self.positions, self.ringed, spelling)
            )
            return filling, inputs
        if text.bidirectional != "nothing":
            if text.bidirectional == "image":
                inputs[names.VISUAL_START] = torch.zeros(1, dtype=torch.int64)
            stage = BidirectionalPrefill(text, self.positions, scales, spelling, budget)
            return stage, inputs | self._past(spelling)
        if text.mrope_axes:
            inputs[names.VISUAL_START] = torch.zeros(1, dtype=torch.int64)
            inputs[names.VISUAL_KEPT] = torch.zeros(budget, dtype=torch.int64)
            if deep := len(self.parts.deepstack_projectors):
                inputs[names.VISUAL_DEEP] = torch.zeros(budget, deep * text.hidden)
            grid = self.parts.vision.grid
            turning = MropePrefill(
                *(text, self.positions, scales, spelling, grid, budget),
                deep=len(self.parts.deepstack_projectors),
            )
            return turning, inputs | self._past(spelling)
        if self.prefill is None:
            prefill = decoder.Prefill(text, self.positions, scales, spelling)
            return prefill, inputs | self._past(spelling)
        if parts := segments.list_segments(self.prefill, self.layers):
            return self._segment(flavour, budget, parts[0])
        inputs[names.VISUAL_START] = torch.zeros(1, dtype=torch.int64)
        reducing_prefill = prefilling.ReducingPrefill(
            text, self.positions, scales, self.prefill, budget, spelling
        )
        return reducing_prefill, inputs | self._past(spelling)

    def _segment(
        self, flavour: Flavour, budget: int | None, part: range
    ) -> tuple[segments.Segment, dict[str, Tensor]]:
        """Layers `part` of a prefill in segments, without visual rows if there is no budget."""
        text, spelling = self.parts.text, self._spelling(flavour)
        kind = segments.ExitedSegment if budget is None else segments.Segment
        assert self.prefill is not None  # noqa: S101
        more = (spelling, self.prefill, budget or 0, part)
        module = kind(text, self.positions, self.scales, *more)
        before = names.text_rows_before if budget is None else names.rows_before
        name = before(part.start) if part.start else names.INPUT_EMBEDS
        rows = self.prompt_tokens + (budget or 0)
        lengths = {names.PAST_LENGTHS: torch.zeros(self.layers, dtype=torch.int32)}
        last = {names.LAST_ROW: torch.zeros(1, dtype=torch.int64)}
        inputs = {name: torch.zeros(1, rows, text.hidden)}
        if budget is None:
            inputs |= lengths | {names.TEXT_POSITIONS: torch.zeros(rows, dtype=torch.int64)}
            inputs |= last if module.is_last else {}
        else:
            start = {names.VISUAL_START: torch.zeros(1, dtype=torch.int64)}
            inputs |= last | lengths | ({} if module.is_last else start)
        past = self._past(spelling)
        return module, inputs | {n: past[n] for b in part for n in past if n.endswith(f"_{b}")}

    def _packing_prefill(
        self, flavour: Flavour, inputs: dict[str, Tensor]
    ) -> tuple[nn.Module, dict[str, Tensor]]:
        in_slots = portable_packing.SlotPacking if self.scales else portable_packing.StandardPacking
        stage = keeping.PackingPrefill(
            *self._keeping(self._spelling(flavour)),
            packing=packing.PackingAttention if flavour == "ort" else in_slots,
            text_rows=self.prompt_tokens,
        )
        if stage.reads_places:
            inputs[names.VISUAL_START] = torch.zeros(1, dtype=torch.int64)
        return stage, inputs

    def _keeping(self, spelling: DecoderSpelling) -> tuple[Any, ...]:
        text, scales = self.parts.text, self.scales
        return text, self.positions, scales, self.kv_bits, self.room, self.seed, spelling

    def _extend(self, spelling: DecoderSpelling, _: int) -> tuple[nn.Module, dict[str, Tensor]]:
        bucket = self.ladder.largest
        text_rows = bucket.cache_slots - bucket.budget
        rows = min(CHUNK_ROWS, max(1, text_rows // 4))  # the proof puts a chunk behind a prompt
        inputs = {
            names.CHUNK_EMBEDS: torch.zeros(1, rows, self.parts.text.hidden),
            names.PAST_LENGTHS: torch.zeros(self.layers, dtype=torch.int32),
            names.CHUNK_POSITIONS: torch.zeros(self.layers, rows, dtype=torch.int64),
        }
        stage = decoder.Extend(self.parts.text, self.positions, self.scales, spelling)
        return stage, inputs | self._past(spelling) | self._memory()

    def _decode(self, spelling: DecoderSpelling, _: int) -> tuple[nn.Module, dict[str, Tensor]]:
        inputs = {
            names.TOKEN_ID: torch.zeros(1, 1, dtype=torch.int64),
            names.PAST_LENGTHS: torch.zeros(self.layers, dtype=torch.int32),
            names.POSITIONS: torch.zeros(self.layers, 1, dtype=torch.int64),
        }
        if self.ringed is not None:
            past = inputs | ringed.past_parts(self.ringed, self.ringed.buffers)
            text, positions = self.parts.text, self.positions
            if isinstance(self.ringed, ThinkShape):
                return pruned.PrunedDecode(text, positions, self.ringed, spelling), past
            if isinstance(self.ringed, KiviShape):
                return ringed.RingDecode(text, positions, self.ringed, spelling), past
            return zipped.TierDecode(text, positions, self.ringed, spelling), past
        past = inputs | self._past(spelling)
        if self.room is not None:
            return keeping.ScoringDecode(*self._keeping(spelling)), past
        plain = self.parts.text, self.positions, self.scales, spelling
        if self.reads is not None:
            return reading.ReadingDecode(*plain, self.reads), past
        return decoder.Decode(*plain), past | self._memory()

    def _flush(self, _: int) -> tuple[nn.Module, dict[str, Tensor]]:
        assert isinstance(self.ringed, KiviShape | ZipShape)  # noqa: S101
        rings = ringed.past_parts(self.ringed, self.ringed.waiting)
        if isinstance(self.ringed, KiviShape):
            return ringed.Flush(self.ringed), rings
        return zipped.TierFlush(self.ringed), rings

    @property
    def prompt_tokens(self) -> int:
        return self.ladder.largest.prompt_tokens

    @property
    def layers(self) -> int:
        return len(self.parts.text.attending)

    @property
    def positions(self) -> int:
        """Rotary positions that the tables hold: all, where a cache that is full goes on."""
        if self.room is None:
            shifts = [self.parts.shift(budget) for budget in self.ladder.budgets]
            return self.ladder.largest.cache_slots + max(0, *shifts)
        return self.parts.text.max_positions

    @property
    def slots(self) -> list[int]:
        """Rows that each layer's cache holds."""
        if self.room is None:
            return cache_slots(self.ladder, self.prefill, self.layers)
        return list(self.room.slots)

    def _memory(self) -> dict[str, Tensor]:
        """What short convolutions remember."""
        text = self.parts.text
        shape = (1, text.hidden, text.kernel - 1)
        numbers = range(len(text.convolutions))
        return {names.past_convolution(number): torch.zeros(shape) for number in numbers}

    def _past(self, spelling: DecoderSpelling) -> dict[str, Tensor]:
        text, past = self.parts.text, {}
        planes = () if self.room is None else self.room.policy.planes
        for layer, slots in enumerate(self.slots):
            for buffer in spelling.buffers:
                shape = (1, text.kv_heads, slots, buffer.width(text.head_dim))
                past[buffer.name(layer)] = torch.zeros(shape, dtype=buffer.dtype)
            if planes:
                past[names.past_state(layer)] = torch.zeros(len(planes), text.kv_heads, slots)
        return past


def removed_rows(ladder: Ladder, prefill: Prefill | None, layers: int) -> dict[int, list[int]]:
    """For each rung, by its budget, the prompt rows that are gone before each layer."""
    nothing = [0] * layers
    return {
        b.budget: nothing if prefill is None else prefill.removed(layers, b.budget) for b in ladder
    }


def cache_slots(ladder: Ladder, prefill: Prefill | None, layers: int) -> list[int]:
    """Rows of each layer's cache: what the rung that needs most leaves there."""
    removed = removed_rows(ladder, prefill, layers)
    return [
        max(bucket.cache_slots - removed[bucket.budget][layer] for bucket in ladder)
        for layer in range(layers)
    ]


def describe_tensor(value: ir.Value) -> TensorSpec:
    """A graph's input or output as the manifest lists it."""
    dtype = str(value.dtype).lower().replace("float", "float32") if value.dtype else ""
    shape = [int(dim) for dim in value.shape]
    return TensorSpec(name=str(value.name), dtype=dtype, shape=shape)  # type: ignore[arg-type]
