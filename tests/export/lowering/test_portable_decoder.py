"""Prefill and decode in standard operators against PyTorch, and against the `ort` graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from edgetok import names
from edgetok.bundle.manifest import Flavour, Weights
from edgetok.calibration.kv_scales import measure_kv_scales
from edgetok.export.attention import Scales
from edgetok.export.caches.plain.scheme import PlainCache
from edgetok.export.lowering import portable
from edgetok.export.lowering.rounding import hold_rounded
from edgetok.export.parity.sessions import GraphRunner
from edgetok.export.reference.model import Answer, Reference
from edgetok.export.reference.slots import SlotReference
from edgetok.families import open_model
from edgetok.families.parts import Parts
from edgetok.ladder import build_ladder
from edgetok.methods import find_method

BITS = {"fp32": 32, "int8": 8, "int4": 4}
NEW_TOKENS = 12


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def parts(request: pytest.FixtureRequest, tiny_llava: ModuleType, tmp_path_factory: Any) -> Parts:
    path = tmp_path_factory.mktemp("decoders") / request.param
    opened = open_model(tiny_llava.write_tiny_llava(path, decoder=request.param))
    return replace(opened, text=replace(opened.text, stop_ids=()))  # random weights stop at once


def embeds_of(parts: Parts, rows: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, rows, parts.text.hidden, generator=generator)


def scales_of(parts: Parts, kv: str) -> Scales | None:
    if kv == "fp32":
        return None
    return measure_kv_scales(parts.text, [embeds_of(parts, 24, seed) for seed in range(3)])


@pytest.fixture(scope="module")
def runner_of(
    building: ModuleType, parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., GraphRunner]:
    """Graphs of one decoder by kv, weights and flavour, built when they are first asked for."""
    folder = tmp_path_factory.mktemp
    return cache(lambda *key: build_runner(building, parts, folder("graphs"), *key))


def build_runner(
    building: ModuleType,
    parts: Parts,
    folder: Path,
    kv: str,
    weights: Weights = "fp32",
    flavour: Flavour = "portable",
) -> GraphRunner:
    ladder = build_ladder((4, 16), 24, NEW_TOKENS)
    rows = PlainCache(kv, ladder.largest.cache_slots, scales_of(parts, kv))
    builder = building.make_builder(parts, ladder, rows, flavour=flavour, weights=weights)
    graphs = building.build(builder, "prefill", "decode", "extend")
    assert len(graphs) == 4
    for graph in graphs if flavour == "portable" else []:
        model = onnx.load_model_from_string(graph.data)
        assert [(o.domain, o.version) for o in model.opset_import] == [("", portable.OPSET)]
        assert {node.domain for node in model.graph.node} == {""}
    runner: GraphRunner = building.run_graphs(builder, folder, graphs)
    return runner


@pytest.mark.parametrize("kv", ["fp32", "int8", "int4"])
def test_answers_are_those_of_torch_with_the_same_rounded_rows(
    parts: Parts, runner_of: Any, kv: str
) -> None:
    runner = runner_of(kv)
    for budget, rows in ((4, 9), (16, 40)):
        embeds = embeds_of(parts, rows, seed=rows)
        want, (logits, ids) = answer_twice(parts, runner, embeds, budget, kv)
        assert ids == want.ids
        # A row between two levels may fall to either; the median step has none.
        away = np.abs(logits - want.logits.numpy()).max(axis=1)
        assert np.median(away) < 1e-4
        assert away.max() < (1e-4 if kv == "fp32" else 0.2)


def test_rounded_weights_hold_the_values_equaliser(parts: Parts, runner_of: Any) -> None:
    runner = runner_of("int8", "int8")
    with hold_rounded(parts, "int8", "portable", scales_of(parts, "int8")):
        want, (logits, _) = answer_twice(parts, runner, embeds_of(parts, 9), 4, "int8")
    np.testing.assert_allclose(logits[0], want.logits[0], atol=1e-4)
    # ONNX Runtime rounds activations too where it packs int8 weights, which a step's graph has.
    got, true = logits[1], want.logits[1].numpy()
    assert got @ true > 0.99 * np.linalg.norm(got) * np.linalg.norm(true)


def answer_twice(
    parts: Parts, runner: GraphRunner, embeds: torch.Tensor, budget: int, kv: str
) -> tuple[Answer, Any]:
    """What PyTorch answers with rounded rows, and what the graphs do."""
    exact = Reference(parts, find_method("visionzip"))
    reference = SlotReference(exact, scales_of(parts, kv), BITS[kv])
    want = reference.answer(embeds, NEW_TOKENS)
    return want, runner.answer(budget, embeds[0].numpy(), NEW_TOKENS, ())


def test_rounding_of_rows_is_felt(parts: Parts) -> None:
    """The comparison above would notice an unrounded cache: int4 moves logits far more."""
    scales = scales_of(parts, "int4")
    assert scales is not None
    reference, embeds = Reference(parts, find_method("visionzip")), embeds_of(parts, 9)
    exact = reference.answer(embeds, NEW_TOKENS).logits
    rounded = SlotReference(reference, scales, 4).answer(embeds, NEW_TOKENS).logits
    assert torch.equal(exact[0], rounded[0])
    assert (exact[1] - rounded[1]).abs().max() > 0.02


def test_padding_of_the_prompt_is_never_seen(parts: Parts, runner_of: Any) -> None:
    runner = runner_of("int8")
    embeds = embeds_of(parts, 9)[0].numpy()
    small, _ = runner.answer(4, embeds, NEW_TOKENS, ())
    large, _ = runner.answer(16, embeds, NEW_TOKENS, ())
    np.testing.assert_allclose(small, large, atol=1e-4)


@pytest.mark.parametrize("kv", ["fp32", "int8", "int4"])
def test_a_chunk_does_what_single_steps_do(parts: Parts, runner_of: Any, kv: str) -> None:
    runner, embeds = runner_of(kv), embeds_of(parts, 9)[0].numpy()
    ids = list(range(20, 20 + runner.chunk_sizes[0]))
    runner.begin(4, embeds)
    want = [runner.step(token) for token in ids][-1]
    after = runner.step(7)
    runner.begin(4, embeds)
    got = runner.put(parts.text.embed(torch.tensor(ids)).detach().numpy())
    assert len(ids) > 4
    assert np.median(np.abs(got - want)) < 1e-4
    assert np.median(np.abs(runner.step(7) - after)) < 1e-4


def test_layers_of_different_lengths_and_positions(parts: Parts, runner_of: Any) -> None:
    """A step over caches that lost rows: both flavours agree, and unused slots do not matter."""
    found = []
    for flavour, rubbish in (("ort", 0.0), ("portable", 0.0), ("portable", 9.0)):
        runner = runner_of("fp32", "fp32", flavour)
        generator = np.random.default_rng(1)
        lengths = np.array([20, 7], np.int32)
        feeds: dict[str, Any] = {
            names.TOKEN_ID: np.array([[11]]),
            names.PAST_LENGTHS: lengths,
            names.POSITIONS: np.array([[31], [7]]),
        }
        shape = (1, parts.text.kv_heads, 52, parts.text.head_dim)
        for layer, length in enumerate(lengths):
            for name in (names.past_key(layer), names.past_value(layer)):
                rows = generator.normal(size=shape).astype(np.float32)
                rows[:, :, length + 1 :] = rubbish
                feeds[name] = rows
        found.append(runner.run("decode", None, feeds))
    np.testing.assert_allclose(found[1][names.LOGITS], found[0][names.LOGITS], atol=1e-4)
    np.testing.assert_array_equal(found[2][names.LOGITS], found[1][names.LOGITS])
    written = found[1][names.present_key(1)][:, :, :8]
    np.testing.assert_allclose(written, found[0][names.present_key(1)][:, :, :8], atol=1e-5)
