"""ThinK caches in the shipped runtime, step by step against keys with channels read as zeros."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import onnx
import pytest
import torch

import edgetok
from edgetok import names
from edgetok.bundle.buffers import cache_bytes, require_buffers
from edgetok.bundle.manifest import Flavour, Manifest, Stage, encode_manifest
from edgetok.bundle.parse import parse_manifest
from edgetok.bundle.reader import Bundle
from edgetok.errors import BundleError, IncompatibleError, InputError, UsageError
from edgetok.export.caches.choose import STORES
from edgetok.export.caches.scheme import CacheScheme
from edgetok.export.caches.think.reference import ThinkReference
from edgetok.export.caches.think.scheme import fit_think
from edgetok.export.caches.tidaldecode.scheme import TidalCache
from edgetok.export.parity.sessions import GraphRunner
from edgetok.export.pipeline import export_model
from edgetok.export.reference.model import Reference
from edgetok.families import open_model
from edgetok.families.parts import Parts
from edgetok.kv import Reads
from edgetok.kv.policies.tidaldecode import READING
from edgetok.kv.stores.think import RING_ROWS, count_channels
from edgetok.ladder import build_ladder
from edgetok.methods import find_method
from edgetok.runtimes.runtime.runtime import BundleRuntime
from edgetok.runtimes.verify import verify

PROMPT, VISUAL, NEW, HEAD = 48, 16, 100, 16
SIZES = {"budgets": "full", "prompt_tokens": PROMPT, "new_tokens": NEW}
KEPT = count_channels(HEAD)
LADDER = build_ladder([VISUAL], PROMPT, NEW)
TWO_LAYERS = replace(READING, selects=lambda _: (0,))


@pytest.fixture(scope="module")
def parts(model_dir: Path) -> Parts:
    return open_model(model_dir)


@pytest.fixture(scope="module")
def bundle(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pruned") / "x.bundle"
    export_model(model_dir, out, parity_images=1, kv="think", **SIZES)
    return out


def embed(parts: Parts, rows: int) -> torch.Tensor:
    ids = torch.arange(rows) * 7919 % parts.text.vocabulary
    return parts.text.embed(ids).detach()[None]


def follow(runtime: BundleRuntime, parts: Parts, rows: int, steps: int) -> None:
    """A prompt and steps behind it: channels, and logits, are the reference's."""
    reference = ThinkReference(parts.text, max(runtime.manifest.kv.slots), RING_ROWS, KEPT)
    embeds = embed(parts, rows)
    got = runtime.prefill(runtime.ladder.largest, embeds[0].numpy())
    np.testing.assert_allclose(got, reference.begin(embeds, range(0)).numpy(), atol=1e-4)
    for layer, head in reference.channels:
        held = runtime._graphs.decode.inputs[names.buffer_name("past", "channels", layer)].host
        assert held[0, head].tolist() == reference.channels[layer, head]
    for step in range(steps):
        token = 7 * step % parts.text.vocabulary
        got, want = runtime.step(token), reference.step(token)
        np.testing.assert_allclose(got, want.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("rows", "steps"),
    [
        (1, 40),
        (20, NEW),  # fewer than the ring has, so the ring fills first
        (RING_ROWS, 70),
        (RING_ROWS + 1, 70),
        (45, NEW),
        (PROMPT + VISUAL, NEW),  # to the last slot
    ],
)
def test_every_step_is_the_reference_s(rows: int, steps: int, bundle: Path, parts: Parts) -> None:
    """More than twice the prompt, over what a longer answer left in the buffers."""
    runtime = BundleRuntime(Bundle.open(bundle), threads=1)
    follow(runtime, parts, PROMPT + VISUAL, 3)
    follow(runtime, parts, rows, steps)


@pytest.mark.slow
def test_portable_steps_are_the_reference_s(model_dir: Path, parts: Parts, tmp_path: Path) -> None:
    out = tmp_path / "x.bundle"
    export_model(model_dir, out, parity_images=1, kv="think", flavour="portable", **SIZES)
    runtime = BundleRuntime(Bundle.open(out), threads=1, flavour="portable")
    for rows in (20, 45):
        follow(runtime, parts, rows, NEW)


@pytest.mark.parametrize("flavour", ["ort", pytest.param("portable", marks=pytest.mark.slow)])
def test_all_channels_are_dense(
    building: ModuleType, flavour: Flavour, parts: Parts, tmp_path: Path
) -> None:
    cache = fit_think("think", LADDER, parts.text, HEAD)
    builder = building.make_builder(parts, LADDER, cache, flavour=flavour)
    runner: GraphRunner = building.open_graphs(builder, tmp_path, "decode", "prefill")
    rows = embed(parts, 45)
    want = Reference(parts, find_method("visionzip")).answer(rows, NEW)
    got = [runner.begin(VISUAL, rows[0].numpy()), *(runner.step(i) for i in want.ids[:-1])]
    np.testing.assert_allclose(np.stack(got), want.logits.numpy(), atol=1e-4)


def test_fewer_channels_are_not(bundle: Path, parts: Parts) -> None:
    runtime, rows = BundleRuntime(Bundle.open(bundle), threads=1), embed(parts, 45)
    want = Reference(parts, find_method("visionzip")).answer(rows, 3)
    got = runtime.prefill(runtime.ladder.largest, rows[0].numpy())
    np.testing.assert_allclose(got, want.logits[0].numpy(), atol=1e-4)
    assert np.abs(runtime.step(want.ids[0]) - want.logits[1].numpy()).max() > 1e-2


def test_memory_is_what_the_manifest_says(bundle: Path, held_bytes) -> None:
    runtime = BundleRuntime(Bundle.open(bundle), threads=1)
    held = held_bytes(runtime)
    slots = PROMPT + VISUAL + NEW
    keys = (slots - RING_ROWS) * KEPT + RING_ROWS * HEAD + KEPT  # and which channels they are
    assert held == cache_bytes(runtime.manifest) == 2 * 2 * 4 * (keys + slots * HEAD)
    assert held < 2 * 2 * 4 * (2 * slots * HEAD)  # layers and heads; float32


def test_an_answer_is_given_again_and_a_full_cache_says_so(bundle: Path, parts: Parts) -> None:
    model = edgetok.load(bundle, threads=1)
    image = np.zeros((20, 20, 3), np.uint8)
    answers = [model.generate(image, "What is it?", max_new_tokens=40) for _ in range(2)]
    assert answers[0].token_ids == answers[1].token_ids
    assert not verify(Bundle.open(bundle), model).failures
    runtime = BundleRuntime(Bundle.open(bundle), threads=1)
    runtime.prefill(runtime.ladder.largest, embed(parts, PROMPT + VISUAL)[0].numpy())
    for _ in range(NEW):
        runtime.step(5)
    with pytest.raises(InputError, match="full with 164 rows"):
        runtime.step(5)


def test_a_prompt_that_grew_goes_on_behind_and_another_begins_afresh(bundle, parts) -> None:
    runtime = BundleRuntime(Bundle.open(bundle), threads=1)
    rows, keys = embed(parts, 45)[0].numpy(), [i * 7919 % 300 for i in range(45)]
    runtime.prefill(runtime.ladder.largest, rows[:30], keys[:30])
    want = [runtime.step(key).copy() for key in keys[30:]][-1]
    runtime.prefill(runtime.ladder.largest, rows[:30], keys[:30])
    assert runtime.count_held(keys) == 30
    np.testing.assert_array_equal(runtime.extend(rows, 30, keys), want)
    assert runtime.count_held(keys[:40]) == 0  # its channels were chosen by the first prompt


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kv": "fp32", "kv_channels": 8}, "8 channels of keys need a cache that prunes them"),
        ({"kv": "kivi", "kv_channels": 8}, "8 channels of keys need a cache that prunes them"),
        ({"kv_channels": 0}, "0 channels of keys are none"),
        ({"kv_channels": 17}, "17 channels of keys are more than the 16 that heads have"),
        ({"kv_policy": "h2o"}, "holds each row in its place and h2o takes single rows out"),
        ({"kv_policy": "tidaldecode"}, "reads single rows and a think cache keeps none"),
        ({"kv_slots": 50}, "50 KV slots need a policy"),
        ({"prefill": "fastv"}, "fastv takes rows away between them; leave --prefill out"),
        (
            {"budgets": "4", "prompt_tokens": 20, "new_tokens": 8},
            "keeps the last 32 keys whole and the largest rung needs 32",
        ),
    ],
)
def test_what_cannot_be_combined_is_refused(options, words, model_dir: Path, tmp_path: Path):
    with pytest.raises(UsageError, match=words):
        export_model(model_dir, tmp_path / "x", **SIZES | {"kv": "think"} | options)
    assert list(tmp_path.iterdir()) == []


def test_a_decoder_with_a_window_is_refused(tiny_llava, tmp_path: Path) -> None:
    model = tiny_llava.write_tiny_llava(tmp_path / "model", decoder="mistral")
    with pytest.raises(IncompatibleError, match="a think cache knows plain attention only"):
        export_model(model, tmp_path / "x", budgets="full", kv="think")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reuse": "rewind"}, r"\$\.kv\.reuse rewind: rows that were packed"),
        ({"ring": 1000}, r"\$\.kv\.ring 1000 exceeds \$\.kv\.slots 164"),
        ({"slots": [164, 165]}, "a ring takes all rows alike"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(change, words, bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    wrong = msgspec.structs.replace(manifest, kv=msgspec.structs.replace(manifest.kv, **change))
    with pytest.raises(BundleError, match=words):
        parse_manifest(encode_manifest(wrong))


def with_channels(manifest: Manifest, count: int, stages: tuple[str, ...]) -> Manifest:
    """The manifest with other channels of pruned keys in some graphs."""

    def change(stage: Stage) -> Stage:
        tensors = {
            side: [
                msgspec.structs.replace(t, shape=[*t.shape[:-1], count])
                if t.name.startswith(("past_key_", "present_key_"))
                else t
                for t in getattr(stage, side)
            ]
            for side in ("inputs", "outputs")
        }
        return msgspec.structs.replace(stage, **tensors) if stage.stage in stages else stage

    return msgspec.structs.replace(manifest, stages=[change(each) for each in manifest.stages])


@pytest.mark.parametrize(
    "change",
    [
        {"ring": 16},
        {"ring": 0},
        {"head_dim": 17},
        {"slots": [163, 163]},
        {"filing": "groups"},
        (9, ("decode",)),
        (9, ("prefill",)),
        (0, ("prefill", "decode")),
        (17, ("prefill", "decode")),
    ],
)
def test_other_buffers_than_the_graphs_are_refused(change, bundle: Path) -> None:
    opened = Bundle.open(bundle)
    if isinstance(change, dict):
        kv = msgspec.structs.replace(opened.manifest.kv, **change)
        wrong = msgspec.structs.replace(opened.manifest, kv=kv)
    else:
        wrong = with_channels(opened.manifest, *change)
    with pytest.raises(BundleError, match="export again"):
        require_buffers(wrong, "ort")
    object.__setattr__(opened, "manifest", wrong)
    with pytest.raises((BundleError, UsageError)):  # that it has no graph of flush
        BundleRuntime(opened, threads=1)


def make_cache(kind: str, parts: Parts, bits: int | None = None) -> CacheScheme:
    """A cache whose steps write attention out in small operators; with scales if it has bits."""
    if kind != "reads":
        return STORES[kind](kind, LADDER, parts.text)
    one = torch.ones(1, parts.text.kv_heads, 1, HEAD)
    scales = None if bits is None else [(one, one)] * len(parts.text.layers)
    kv, slots = "fp32" if bits is None else f"int{bits}", LADDER.largest.cache_slots
    return TidalCache(kv, slots, scales, reads=Reads(READING, 8, (0,)))


@pytest.mark.parametrize("kind", ["think", pytest.param("kivi", marks=pytest.mark.slow), "reads"])
def test_a_step_multiplies_by_the_prompt_s_weights(
    building: ModuleType, kind: str, parts: Parts
) -> None:
    """Where attention is written out too: no projection is stored a second time."""
    builder = building.make_builder(parts, LADDER, make_cache(kind, parts))
    (decode,), (prefill,) = (building.build(builder, name) for name in ("decode", "prefill"))
    steps, prompts = _multipliers(decode.data), _multipliers(prefill.data)
    assert len(steps) == 2 * 5  # of each layer: q, k and v in one, o, gate, up and down
    assert steps == prompts


def _multipliers(graph: bytes) -> set[str]:
    """Where in the weights file the constants of all products lie."""
    found = onnx.load_model_from_string(graph).graph
    places = {t.name: {e.key: e.value for e in t.external_data} for t in found.initializer}
    factors = [node.input[1] for node in found.node if node.op_type == "MatMul"]
    return {places[name]["offset"] for name in factors if places.get(name)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "bits"), [("think", None), ("reads", None), ("reads", 8), ("reads", 4)]
)
def test_engines_build_without_a_gpu(
    building: ModuleType, kind: str, bits, parts: Parts, tmp_path: Path
) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    cache = make_cache(kind, parts, bits)
    builder = building.make_builder(parts, LADDER, cache, flavour="portable")
    graphs = building.build(builder, "prefill", "decode")
    building.write_weights(builder, tmp_path)
    assert len(graphs) == 2
    for graph in graphs:
        path = tmp_path / "graph.onnx"  # beside weights/, which it names
        path.write_bytes(graph.data)
        logger = trt.Logger(trt.Logger.ERROR)
        maker = trt.Builder(logger)
        network = maker.create_network(0)
        parser = trt.OnnxParser(network, logger)
        assert parser.parse_from_file(str(path)), parser.get_error(0).desc()
        config = maker.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM86, 0)
        assert maker.build_serialized_network(network, config) is not None


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_rounded_weights_pass_the_gate(weights, model_dir: Path, tmp_path: Path) -> None:
    for number, kind in enumerate(({"kv": "think"}, {"kv_policy": TWO_LAYERS, "kv_reads": 12})):
        out = tmp_path / str(number)
        report = export_model(
            model_dir, out, parity_images=1, weights=weights, flavour="portable", **SIZES | kind
        )
        assert all(check["passed"] for check in report.parity["checks"])
