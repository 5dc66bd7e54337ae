"""Graphs of KIVI caches and ZipCaches with rounded weights and in standard operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from edgetok import names
from edgetok.bundle.manifest import Flavour
from edgetok.export.builder import GraphBuilder
from edgetok.export.caches.choose import STORES
from edgetok.export.caches.kivi.graphs import KiviFlush
from edgetok.export.caches.scheme import CacheScheme
from edgetok.export.graph import Graph
from edgetok.export.lowering import portable
from edgetok.export.lowering.rounding import hold_rounded
from edgetok.export.parity.gate import find_limits
from edgetok.export.parity.ledger import Check, Ledger
from edgetok.export.parity.prompt import Prompt
from edgetok.export.parity.sessions import GraphRunner
from edgetok.families import open_model
from edgetok.families.parts import Parts
from edgetok.ladder import build_ladder
from edgetok.methods import find_method

METHOD, BUDGET = find_method("visionzip"), 16
LADDER = build_ladder((BUDGET,), 48, 70)
STAGES = ("prefill", "decode", "flush")
DYNAMIC = {"NonZero", "Unique", "If", "Loop", "Scan", "Compress"}

Case = tuple[str, Any, Flavour]  # cache, weights and flavour
QUICK: Sequence[Case] = [("kivi", "int4", "portable"), ("zipcache", "fp32", "portable")]
ALL: Sequence[Case] = [
    (kv, weights, flavour)
    for kv in ("kivi", "kivi4", "zipcache")
    for weights in ("fp32", "int8", "int4")
    for flavour in ("ort", "portable")
]
CASES = [c if c in QUICK else pytest.param(*c, marks=pytest.mark.slow) for c in ALL]
Graphs = tuple[list[Graph], Path]
Make = Callable[..., GraphBuilder]


@pytest.fixture(scope="module")
def builder_of(building: ModuleType, model_dir: Path) -> Make:
    """Builders by cache, weights and flavour."""

    def make(kv: str, weights: Any, flavour: Flavour) -> GraphBuilder:
        parts = open_model(model_dir)
        given = parts, LADDER, cache_of(kv, parts)
        builder: GraphBuilder = building.make_builder(*given, weights=weights, flavour=flavour)
        return builder

    return make


@pytest.fixture(scope="module")
def graphs_of(
    building: ModuleType, builder_of: Make, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Graphs]:
    """The text model's graphs of a case and the folder of their weights, built once."""

    @cache
    def build(kv: str, weights: Any, flavour: Flavour) -> Graphs:
        builder, folder = builder_of(kv, weights, flavour), tmp_path_factory.mktemp("graphs")
        graphs = building.build(builder, *STAGES)
        building.write_weights(builder, folder)
        return graphs, folder

    return build


def cache_of(kv: str, parts: Parts) -> CacheScheme:
    return STORES[kv](kv, LADDER, parts.text)


def check(case: Case, runner: GraphRunner, model_dir: Path) -> list[Check]:
    """What the parity check says of prompts that leave a ring in part, full, and with a row."""
    kv, weights, flavour = case
    parts = open_model(model_dir)  # rounded below
    rows = cache_of(kv, parts)
    ledger = Ledger(find_limits(weights, rows.rounds))
    with hold_rounded(parts, weights, flavour):
        held = rows.held(rows.reference(parts, METHOD), flavour)
        for count in (20, 32, 33, 64):
            ids = torch.arange(count) * 7919 % parts.text.vocabulary
            embeds = parts.text.embed(ids).detach()[None]
            assert rows.check(ledger, held, runner, Prompt(embeds, range(0), BUDGET))
    return ledger.checks()


@pytest.mark.parametrize(("kv", "weights", "flavour"), CASES)
def test_every_step_is_that_of_torch_with_the_same_rounding(
    kv: str, weights: Any, flavour: Flavour, graphs_of: Any, model_dir: Path
) -> None:
    case: Case = (kv, weights, flavour)
    checks = check(case, GraphRunner(*graphs_of(*case)), model_dir)
    assert not [each for each in checks if not each.passed]
    compared = {each.output for each in checks if each.stage == names.FLUSH}
    waiting = ("key", "value", "score") if kv == "zipcache" else ("key", "value")
    rings = {f"past_ring_{kind}_{layer}" for kind in waiting for layer in range(2)}
    assert compared == rings | (set() if kv == "zipcache" else PACKED)
    worst = {c.stage: c.worst for c in checks if c.measure == "max_abs"}
    assert worst["prefill"] < 1e-4
    assert worst["decode"] < (1e-4 if weights == "fp32" else 2)


PACKED = {f"past_{kind}_{layer}" for kind in ("key", "value") for layer in range(2)}


@pytest.mark.parametrize(("kv", "weights", "flavour"), QUICK)
def test_graphs_are_static_and_of_standard_operators(
    kv: str, weights: Any, flavour: Flavour, graphs_of: Any
) -> None:
    for graph in graphs_of(kv, weights, flavour)[0]:
        model = onnx.load_model_from_string(graph.data)
        assert [(o.domain, o.version) for o in model.opset_import] == [("", portable.OPSET)]
        assert {node.domain for node in model.graph.node} == {""}
        assert not DYNAMIC & {node.op_type for node in model.graph.node}
        for value in [*model.graph.input, *model.graph.output]:
            kind = value.type.tensor_type
            assert kind.elem_type != onnx.TensorProto.UINT8  # engines compute with none
            assert all(dim.HasField("dim_value") for dim in kind.shape.dim)


def test_a_group_that_is_packed_wrongly_is_seen(
    building: ModuleType,
    builder_of: Make,
    graphs_of: Any,
    model_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows of a group in reverse: their range is right, and so is every row by itself."""
    case = QUICK[0]
    graphs, folder = graphs_of(*case)
    right = KiviFlush.forward

    def wrong(self: nn.Module, *rings: Tensor) -> tuple[Tensor, ...]:
        return right(self, *(ring.flip(2) for ring in rings))

    monkeypatch.setattr(KiviFlush, "forward", wrong)
    flush = building.build(builder_of(*case), "flush")
    others = [graph for graph in graphs if graph.stage.stage != "flush"]
    runner = GraphRunner([*others, *flush], folder)
    broken = {c.stage for c in check(case, runner, model_dir) if not c.passed}
    assert names.FLUSH in broken


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["fp32", "int8", "int4"])
@pytest.mark.parametrize("kv", ["kivi", "kivi4", "zipcache"])
def test_engines_build_without_a_gpu(kv: str, weights: Any, graphs_of: Any) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    graphs, folder = graphs_of(kv, weights, "portable")
    for graph in graphs:
        path = folder / "graph.onnx"  # beside weights/, which it names
        path.write_bytes(graph.data)
        logger = trt.Logger(trt.Logger.ERROR)
        builder = trt.Builder(logger)
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, logger)
        assert parser.parse_from_file(str(path)), parser.get_error(0).desc()
        config = builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM86, 0)
        assert builder.build_serialized_network(network, config) is not None
