r"""Which portable graphs TensorRT for RTX takes, built for a GPU that need not be there.

    pip install "edgetok[rtx]"
    python benchmarks/engines.py --weights fp32 int8 --json docs/results/engines.json
    python benchmarks/engines.py --stages decoder --weights fp32 int8 int4 \
        --kv fp32 int8 int4 kivi kivi4 zipcache --json docs/results/engines-decoder.json

    python benchmarks/engines.py --stages reducing --kv fp32 int8 int4 \
        --json docs/results/engines-reducing.json

A tower with every probe and each method's compress graph (`--stages vision`), or embed, decode,
extend or flush, and prefill at each rung with every precision of the cache (`--stages decoder`), or
what each KV policy and each method of `--prefill` makes of prefill and decode, and the graph that
empties a layer (`--stages reducing`), are parsed and built into an engine. Nothing is run: that
needs a GPU.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
import tensorrt_rtx as trt
import torch

from edgetok import names
from edgetok.errors import UsageError
from edgetok.export.attention import Scales
from edgetok.export.builder import GraphBuilder
from edgetok.export.caches.choose import STORES
from edgetok.export.caches.evicting.scheme import EvictingCache
from edgetok.export.caches.plain.scheme import PlainCache
from edgetok.export.caches.scheme import CacheScheme
from edgetok.export.graph import Graph
from edgetok.export.options import KV_BITS
from edgetok.families import open_model
from edgetok.families.parts import Parts
from edgetok.kv import POLICIES, EvictionPlan, Policy, plan_eviction
from edgetok.ladder import Ladder, build_ladder
from edgetok.methods import METHODS, Method
from edgetok.prefill import PREFILL_METHODS, find_prefill

PROMPT_TOKENS = 160  # of `--stages reducing`
BUILDING = common.load_building()


class _Silent(trt.ILogger):
    """What matters is asked of the parser."""

    def log(self, severity: Any, message: str) -> None:
        if severity <= trt.ILogger.ERROR:
            print(message, file=sys.stderr)


def main() -> None:
    options = common.arguments(
        __doc__,
        stages="vision",
        methods=tuple(METHODS),
        weights=("fp32",),
        kv=("fp32", "int8", "int4"),
        tokens=64,
        target="SM86",
    )
    parts = open_model(options.model)
    of_stages = {"vision": _vision, "decoder": _decoder, "reducing": _reducing}[options.stages]
    rows = []
    for weights in options.weights:
        for row in of_stages(parts, weights, options):
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
    common.report(
        f"engines of TensorRT for RTX {trt.__version__}, {options.target}", rows, options.json
    )


def _vision(parts: Parts, weights: Any, options: Any) -> Iterator[dict[str, Any]]:
    for method, stage in _jobs(parts, options.methods):
        row = {"method": method.name, "stage": stage, "weights": weights}
        yield row | _try(parts, method, stage, weights, options)


def _decoder(parts: Parts, weights: Any, options: Any) -> Iterator[dict[str, Any]]:
    """The stages of the text model, which no method changes, over caches of each precision."""
    ladder = build_ladder([k for k in common.BUDGETS if k <= parts.vision.full_tokens], 96, 128)
    for kv in options.kv:
        builder = _make_builder(parts, ladder, _find_cache(kv, ladder, parts), weights)
        first = ("embed",) if kv == options.kv[0] else ()
        prefills = (f"prefill_{k}" for k in ladder.budgets)
        for title in (*first, "extend", "flush", "decode", *prefills):
            for graph in BUILDING.build(builder, title):  # none of a stage that it does not have
                stage = {"stage": graph.stage.stage, "tokens": graph.stage.budget}
                row = stage | {"weights": weights, "kv": kv}
                yield row | _build_over(builder, graph, options.target)


def _find_cache(kv: str, ladder: Ladder, parts: Parts) -> CacheScheme:
    if kv in STORES:
        return STORES[kv](kv, ladder, parts.text)
    scales = _level_scales(parts) if kv in KV_BITS else None
    return PlainCache(kv, ladder.largest.cache_slots, scales)


def _make_builder(
    parts: Parts, ladder: Ladder, cache: CacheScheme, weights: Any, method: Method = METHODS["pool"]
) -> GraphBuilder:
    given = {"method": method, "weights": weights, "flavour": "portable"}
    builder: GraphBuilder = BUILDING.make_builder(parts, ladder, cache, **given)
    return builder


def _reducing(parts: Parts, weights: Any, options: Any) -> Iterator[dict[str, Any]]:
    """Prefill, decode and compact graphs of every policy, and the prefill graphs of every method.

    A policy has slots for two thirds of a prompt, or what it needs, so that its prefill packs.
    """
    k = min(options.tokens, parts.vision.full_tokens)
    ladder, layers = build_ladder((k,), PROMPT_TOKENS, 16), len(parts.text.layers)
    rows = k + PROMPT_TOKENS
    for kv, name in itertools.product(options.kv, (*POLICIES, *PREFILL_METHODS)):
        policy = POLICIES.get(name)
        scales = None if kv == "fp32" else _level_scales(parts)
        if policy is None:
            slots, wanted = ladder.largest.cache_slots, ("prefill", names.SEGMENT, names.EXITED)
            cache: CacheScheme = PlainCache(kv, slots, scales, find_prefill(name))
        else:
            plan, wanted = (
                _plan(policy, rows, layers),
                ("prefill", "decode", f"compact_{layers - 1}"),
            )
            cache = EvictingCache(kv, plan, scales, KV_BITS.get(kv, 8))
        builder = _make_builder(parts, ladder, cache, weights)
        for graph in BUILDING.build(builder, *wanted):
            row = {"method": name, "stage": graph.stage.stage, "weights": weights, "kv": kv}
            yield row | _build_over(builder, graph, options.target)


def _plan(policy: Policy, rows: int, layers: int) -> EvictionPlan:
    """Slots for two thirds of a prompt, or as many more as the policy needs."""
    for slots in range(2 * rows // 3, rows):
        with contextlib.suppress(UsageError):
            return plan_eviction(policy, slots, layers)
    return plan_eviction(policy, rows, layers)


def _level_scales(parts: Parts) -> Scales:
    """Scales that a builder asks for; which values they have makes no difference here."""
    text = parts.text
    one = torch.ones(1, text.kv_heads, 1, text.head_dim)
    return [(one, one) for _ in text.layers]


def _jobs(parts: Parts, names: Sequence[str]) -> Iterator[tuple[Method, str]]:
    """One tower with all that any method reads of it, and the compress stage of each method."""
    methods = []
    for name in names:
        try:
            methods.append(METHODS[name].for_tower(parts.vision.prefix_tokens))
        except UsageError as error:
            print(error, file=sys.stderr)
    needs = sorted({need for method in methods for need in method.needs})
    yield replace(METHODS["pool"], name="all probes", needs=tuple(needs)), "tower"
    yield from ((method, "compress") for method in methods)


def _try(parts: Parts, method: Method, stage: str, weights: Any, options: Any) -> dict[str, Any]:
    possible = method.budgets(parts.vision.full_tokens, parts.vision.grid)
    k = max(budget for budget in possible if budget <= options.tokens)
    ladder = build_ladder((k,), 96, 16)
    builder = _make_builder(parts, ladder, BUILDING.keep_rows(ladder), weights, method)
    (graph,) = BUILDING.build(builder, stage)
    return _build_over(builder, graph, options.target)


def _build_over(builder: GraphBuilder, graph: Graph, target: str) -> dict[str, Any]:
    """Build a graph beside the weights of its builder."""
    with tempfile.TemporaryDirectory() as folder:
        BUILDING.write_weights(builder, Path(folder))
        return _build(graph, Path(folder), target)


def _build(graph: Graph, folder: Path, target: str) -> dict[str, Any]:
    path = folder / "graph.onnx"  # beside weights/, which it names
    path.write_bytes(graph.data)
    started, logger = time.monotonic(), _Silent()
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        return {"engine": f"parser: {errors[0][:200]}"}
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, target), 0)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        return {"engine": "not built"}
    seconds = round(time.monotonic() - started, 1)
    return {"engine": "built", "KiB": engine.nbytes // 1024, "seconds": seconds}


if __name__ == "__main__":
    main()
