"""All graphs of a bundle: stages built, lowered, and cut off from their weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir

from edgetok import names
from edgetok.bundle.manifest import Stage
from edgetok.export.attention import Lowering, StageModule
from edgetok.export.caches.scheme import CacheScheme, Decoding
from edgetok.export.graph import Graph, Progress, StageSpec, describe_tensor
from edgetok.export.lowering.trace import quiet
from edgetok.export.lowering.weight_file import WeightStore
from edgetok.export.stages.tower import Compress, Embed, Tower
from edgetok.export.stages.tower_reducing import Project, ReducingTower
from edgetok.families.parts import Parts
from edgetok.ladder import Ladder
from edgetok.methods import Method


@dataclass
class GraphBuilder:
    """Builds the graphs of one bundle over one weights file.

    Args:
        lowerings: the flavours of the bundle, `ort` first.
    """

    parts: Parts
    method: Method
    ladder: Ladder
    cache: CacheScheme
    lowerings: Sequence[Lowering]

    def __post_init__(self) -> None:
        self.store = WeightStore(self.parts.scratch)

    def build(self, progress: Progress) -> list[Graph]:
        """Every stage, the shared ones first, then rung by rung, then layer by layer."""
        jobs = [(spec, each) for each in self.lowerings for spec in self.list_stages(each)]
        jobs += [(spec, each) for each in self.lowerings for spec in self.list_later(each)]
        graphs = []
        for done, (spec, lowering) in enumerate(jobs):
            progress(spec.title.replace("_", " "), done / len(jobs))
            graphs.append(build_graph(spec, lowering, self.store))
        return [*graphs, *self.build_unpack()]

    def build_unpack(self) -> list[Graph]:
        """Of each flavour, what makes the weights that graphs so far read as inputs."""
        spec = StageSpec(names.UNPACK, None, StageModule)
        made = [(lowering, lowering.make_unpack()) for lowering in self.lowerings]
        return [describe_graph(spec, by, model, self.store) for by, model in made if model]

    def list_stages(self, lowering: Lowering) -> Iterator[StageSpec]:
        """Stages of one flavour, those of single layers apart."""
        decoding, cache = self._decoding(lowering), self.cache
        towers = [None] if self.method.inside is None else self.ladder.budgets
        for k in towers:
            yield StageSpec("tower", k, partial(self._tower, lowering, k))
        yield StageSpec("embed", None, partial(Embed, self.parts.text, decoding.prompt_tokens))
        if cache.extends:
            yield from self._list_chunks(decoding)
        yield StageSpec("decode", None, partial(cache.decode, decoding))
        if cache.filing != "none":
            yield StageSpec(names.FLUSH, None, cache.flush)
        for k in self.ladder.budgets:
            yield StageSpec("compress", k, partial(self._compress, k))
            yield from self._list_prompts(decoding, k)

    def _list_prompts(self, decoding: Decoding, budget: int) -> Iterator[StageSpec]:
        """The prefill graphs of a rung, the longest first; further ones cost their nodes alone."""
        rung = decoding.rung(budget)
        build = partial(self.cache.prefill, decoding, budget)
        yield StageSpec("prefill", budget, partial(build, rung.prefill_tokens))
        for tokens in reversed(rung.shorter if decoding.has_more_graphs else ()):
            yield StageSpec("prefill", budget, partial(build, budget + tokens), rows=tokens)

    def _list_chunks(self, decoding: Decoding) -> Iterator[StageSpec]:
        """The graphs of chunks, the longest first."""
        longest, *others = reversed(decoding.chunk_sizes)
        yield StageSpec(names.EXTEND, None, partial(self.cache.extend, decoding, longest))
        for rows in others:
            yield StageSpec(
                names.EXTEND, None, partial(self.cache.extend, decoding, rows), rows=rows
            )

    def list_later(self, lowering: Lowering) -> list[StageSpec]:
        """Stages of single layers."""
        return self.cache.later_stages(self._decoding(lowering))

    def _decoding(self, lowering: Lowering) -> Decoding:
        return Decoding(self.parts, self.ladder, lowering)

    def _tower(self, lowering: Lowering, budget: int | None) -> StageModule:
        vision, inside = self.parts.vision, self.method.inside
        if inside is None or budget is None:
            return Tower(vision, self.method.tower_needs, lowering.tower_attention)
        return ReducingTower(vision, inside, budget, lowering.fused_attention)

    def _compress(self, budget: int) -> StageModule:
        if self.method.inside is not None:
            return Project(self.parts, budget)
        return Compress(self.parts, self.method, budget, self.ladder.largest.prompt_tokens)


def build_graph(spec: StageSpec, lowering: Lowering, store: WeightStore) -> Graph:
    """One graph of one flavour; its weights go into the store."""
    with quiet():
        model = lowering.lower(spec.build().eval(), spec.name, spec.title)
    return describe_graph(spec, lowering, model, store)


def describe_graph(
    spec: StageSpec, lowering: Lowering, model: ir.Model, store: WeightStore
) -> Graph:
    """A graph as the manifest lists it; its weights go into the store."""
    stage = Stage(
        stage=spec.name,  # type: ignore[arg-type]  # one of the literal's names
        budget=spec.budget,
        flavour=lowering.flavour,
        file=f"onnx/{lowering.flavour}/{spec.title}.onnx",
        inputs=[describe_tensor(value) for value in model.graph.inputs],
        outputs=[describe_tensor(value) for value in model.graph.outputs],
        layer=spec.layer,
    )
    return Graph(stage, store.externalize(model))
