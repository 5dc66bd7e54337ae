"""Builds some graphs of a bundle for tests, of one flavour, and runs them."""

from __future__ import annotations

from pathlib import Path

from edgetok.bundle.manifest import Flavour, Weights
from edgetok.export.builder import GraphBuilder, build_graph
from edgetok.export.caches.plain.scheme import PlainCache
from edgetok.export.caches.scheme import CacheScheme
from edgetok.export.graph import Graph
from edgetok.export.lowering.flavours import OrtLowering, PortableLowering
from edgetok.export.lowering.quantize import BITS
from edgetok.export.lowering.weight_file import FILE
from edgetok.export.parity.sessions import GraphRunner
from edgetok.families.parts import Parts
from edgetok.ladder import Ladder
from edgetok.methods import METHODS, Method
from edgetok.prefill import Prefill


def make_builder(
    parts: Parts,
    ladder: Ladder,
    cache: CacheScheme | None = None,
    *,
    method: Method = METHODS["pool"],
    flavour: Flavour = "ort",
    weights: Weights = "fp32",
) -> GraphBuilder:
    """A builder of this flavour alone; every row in float32 if there is no cache."""
    bits = BITS[weights]
    portable = flavour == "portable"
    lowering = (
        PortableLowering(bits) if portable else OrtLowering(bits, parts.scratch, parts.text.is_tied)
    )
    return GraphBuilder(parts, method, ladder, cache or keep_rows(ladder), [lowering])


def keep_rows(ladder: Ladder, reduction: Prefill | None = None) -> PlainCache:
    """Every row that a prompt leaves, in float32."""
    return PlainCache("fp32", ladder.largest.cache_slots, None, reduction)


def build(builder: GraphBuilder, *wanted: str) -> list[Graph]:
    """Graphs by the name of their stage (`decode`) or of their file (`prefill_16`); all if none."""
    (lowering,) = builder.lowerings
    specs = [*builder.list_stages(lowering), *builder.list_later(lowering)]
    if wanted:
        specs = [spec for spec in specs if spec.name in wanted or spec.title in wanted]
    graphs = [build_graph(spec, lowering, builder.store) for spec in specs]
    return [*graphs, *builder.build_unpack()]


def write_weights(builder: GraphBuilder, folder: Path) -> None:
    """What the graphs that were built so far read."""
    (folder / FILE).parent.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_bytes(b"".join(builder.store.chunks()))


def open_graphs(builder: GraphBuilder, folder: Path, *wanted: str) -> GraphRunner:
    """Such graphs in ONNX Runtime, their weights in a folder."""
    return run_graphs(builder, folder, build(builder, *wanted))


def run_graphs(builder: GraphBuilder, folder: Path, graphs: list[Graph]) -> GraphRunner:
    """Graphs that this builder made."""
    write_weights(builder, folder)
    cache = builder.cache
    return GraphRunner(graphs, folder, cache.reduction, cache.plan, builder.parts.shift)
