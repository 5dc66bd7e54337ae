"""TidalDecode in graphs and in the shipped runtime: which rows each step reads, and its logits."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest
import torch

import edgetok
from edgetok import names
from edgetok.bundle.buffers import cache_bytes
from edgetok.bundle.manifest import encode_manifest
from edgetok.bundle.parse import parse_manifest
from edgetok.bundle.reader import Bundle
from edgetok.errors import BundleError, IncompatibleError, InputError, UsageError
from edgetok.export.attention import Scales
from edgetok.export.caches.tidaldecode.reference import TidalReference
from edgetok.export.caches.tidaldecode.scheme import TidalCache
from edgetok.export.parity.sessions import GraphRunner
from edgetok.export.pipeline import export_model
from edgetok.export.reference.model import Reference
from edgetok.export.reference.rows import Rounding
from edgetok.export.reference.slots import SlotRounding
from edgetok.families import open_model
from edgetok.families.parts import Parts
from edgetok.kv import Reads
from edgetok.kv.policies.tidaldecode import READING, list_selects
from edgetok.ladder import build_ladder
from edgetok.methods import find_method
from edgetok.runtimes.runtime.runtime import BundleRuntime
from edgetok.runtimes.verify import verify

LAYERS, PROMPT, VISUAL, NEW, READ = 5, 24, 16, 60, 8
TWICE = replace(READING, selects=lambda _: (1, 3))  # layer 0 is dense, 2 and 4 read what was chosen
LADDER = build_ladder([VISUAL], PROMPT, NEW)


@pytest.fixture(scope="module")
def deep(tiny_llava, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("deep") / "model"
    return tiny_llava.write_tiny_llava(path, shape={"num_hidden_layers": LAYERS})


@pytest.fixture(scope="module")
def parts(deep: Path) -> Parts:
    return open_model(deep)


@pytest.fixture(scope="module")
def bundle(deep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reads") / "x.bundle"
    sizes = {"budgets": "full", "prompt_tokens": PROMPT, "new_tokens": NEW, "kv_reads": READ}
    export_model(deep, out, parity_images=1, kv_policy=TWICE, **sizes)
    return out


@pytest.fixture(scope="module")
def graphs(
    building: ModuleType, parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., GraphRunner]:
    """Prefill and decode, by rows read, flavour and bits of the cache; each traced once."""

    @functools.cache
    def make(count: int, flavour: str = "ort", bits: int | None = None) -> GraphRunner:
        kv, slots = "fp32" if bits is None else f"int{bits}", LADDER.largest.cache_slots
        reads = Reads(TWICE, count, (1, 3))
        cache = TidalCache(kv, slots, draw_scales(parts, bits), reads=reads)
        builder = building.make_builder(parts, LADDER, cache, flavour=flavour)
        root = tmp_path_factory.mktemp("graphs")
        runner: GraphRunner = building.open_graphs(builder, root, "decode", "prefill")
        return runner

    return make


def draw_scales(parts: Parts, bits: int | None) -> Scales | None:
    """The same of one number of bits, each time."""
    if bits is None:
        return None
    torch.manual_seed(0)
    shape = (1, parts.text.kv_heads, 1, parts.text.head_dim)
    return [
        tuple((2 + torch.rand(shape)) / 2 ** (bits - 1) for _ in range(2))
        for _ in parts.text.layers
    ]


def embed(parts: Parts, rows: int) -> torch.Tensor:
    ids = torch.arange(rows) * 7919 % parts.text.vocabulary
    return parts.text.embed(ids).detach()[None]


def follow(runner: GraphRunner, reference: TidalReference, rows: torch.Tensor, atol: float):
    """A prompt and 60 steps: what each reads is the same, and so are logits."""
    got, want = runner.begin(VISUAL, rows[0].numpy()), reference.begin(rows, range(0))
    np.testing.assert_allclose(got, want.numpy(), atol=atol)
    for step in range(NEW):
        token = 5 + 3 * step
        got, want = runner.step(token), reference.step(token)
        np.testing.assert_allclose(got, want.numpy(), atol=atol)
        for number, layer in enumerate(reference.reads.selects):
            for head, own in reference.read[layer].items():
                assert {*runner.read[number][head].tolist()} - {-1} == {*own}


@pytest.mark.slow
@pytest.mark.parametrize("flavour", ["ort", "portable"])
@pytest.mark.parametrize("bits", [None, 8, 4])
def test_every_step_reads_the_reference_s_rows(flavour: str, bits, graphs, parts: Parts) -> None:
    """More than twice the prompt, in both flavours and all precisions."""
    runner = graphs(READ, flavour, bits)
    reference = TidalReference(parts.text, Reads(TWICE, READ, (1, 3)), LADDER.largest.cache_slots)
    if bits is not None:
        kind = SlotRounding if flavour == "portable" else Rounding
        reference.rounding = kind(draw_scales(parts, bits), bits)
    for rows in (5, 28):  # fewer than are read, and more
        follow(runner, reference, embed(parts, rows), 1e-4 if bits is None else 1e-2)


def test_reading_all_rows_is_dense(graphs, parts: Parts) -> None:
    """Of 100 slots."""
    runner, rows = graphs(100), embed(parts, 28)
    reference = Reference(parts, find_method("visionzip"))
    want = reference.answer(rows, NEW)
    got = [runner.begin(VISUAL, rows[0].numpy()), *(runner.step(i) for i in want.ids[:-1])]
    np.testing.assert_allclose(np.stack(got), want.logits.numpy(), atol=1e-4)


def test_reading_fewer_is_not(bundle: Path, graphs, parts: Parts) -> None:
    few, dense = BundleRuntime(Bundle.open(bundle), threads=1), graphs(100)
    rows = embed(parts, 28)[0].numpy()
    first = few.prefill(few.ladder.largest, rows)
    np.testing.assert_allclose(first, dense.begin(VISUAL, rows), atol=1e-5)
    assert np.abs(few.step(7) - dense.step(7)).max() > 1e-2


def test_what_was_left_over_changes_nothing(bundle: Path, parts: Parts) -> None:
    runtime, rows = BundleRuntime(Bundle.open(bundle), threads=1), embed(parts, 20)[0].numpy()

    def answer(garbage: float) -> np.ndarray:
        runtime.prefill(runtime.ladder.largest, rows)
        for name, buffer in runtime._graphs.decode.inputs.items():
            if name.startswith(("past_key", "past_value")):
                buffer.host[:, :, len(rows) :] = garbage
        return np.stack([runtime.step(3 * token).copy() for token in range(30)])

    want = answer(0.0)
    for garbage in (1e3, np.nan):
        np.testing.assert_array_equal(answer(garbage), want)


def test_the_runtime_reads_the_reference_s_rows(bundle: Path, parts: Parts) -> None:
    runtime = BundleRuntime(Bundle.open(bundle), threads=1)
    kv = runtime.manifest.kv
    assert (kv.policy, kv.reuse, kv.extends, kv.keep) == ("tidaldecode", "append", True, [])
    (decode,) = (s for s in runtime.manifest.stages if s.stage == "decode")
    read = next(t for t in decode.outputs if t.name == names.DECODE_READ)
    assert read.shape == [2, 2, READ]  # layers that choose, heads, rows
    reference = TidalReference(parts.text, Reads(TWICE, READ, (1, 3)), max(kv.slots))
    for rows in (40, 28):  # a full prompt, then one over its leftovers
        embeds = embed(parts, rows)
        got = runtime.prefill(runtime.ladder.largest, embeds[0].numpy())
        np.testing.assert_allclose(got, reference.begin(embeds, range(0)).numpy(), atol=1e-4)
        for step in range(NEW):
            got, want = runtime.step(5 + 3 * step), reference.step(5 + 3 * step)
            np.testing.assert_allclose(got, want.numpy(), atol=1e-4)
            read = runtime._graphs.decode.outputs[names.DECODE_READ].pull()
            sets = [[{*head.tolist()} - {-1} for head in choice] for choice in read]
            assert sets == [[{*reference.read[n][g]} for g in (0, 1)] for n in (1, 3)]
    assert runtime.rows_left == PROMPT + VISUAL - 28


def test_memory_is_what_the_manifest_says(bundle: Path, held_bytes) -> None:
    runtime = BundleRuntime(Bundle.open(bundle), threads=1)
    slots = PROMPT + VISUAL + NEW
    assert held_bytes(runtime) == cache_bytes(runtime.manifest) == LAYERS * 2 * 2 * slots * 16 * 4


def test_an_answer_is_given_again_and_a_full_cache_says_so(bundle: Path, parts: Parts) -> None:
    model = edgetok.load(bundle, threads=1)
    image = np.zeros((20, 20, 3), np.uint8)
    answers = [model.generate(image, "What is it?", max_new_tokens=30) for _ in range(2)]
    assert answers[0].token_ids == answers[1].token_ids
    assert not verify(Bundle.open(bundle), model).failures
    runtime = BundleRuntime(Bundle.open(bundle), threads=1)
    runtime.prefill(runtime.ladder.largest, embed(parts, PROMPT + VISUAL)[0].numpy())
    for _ in range(NEW):
        runtime.step(5)
    with pytest.raises(InputError, match="full with 100 rows"):
        runtime.step(5)


def test_a_prompt_that_grew_goes_on_behind(bundle: Path, parts: Parts) -> None:
    """A chunk reads all rows, as a prompt does; what an answer left is only gone on behind."""
    runtime = BundleRuntime(Bundle.open(bundle), threads=1)
    rows, keys = embed(parts, 36)[0].numpy(), [i * 7919 % 300 for i in range(36)]
    want = runtime.prefill(runtime.ladder.largest, rows, keys).copy()
    runtime.prefill(runtime.ladder.largest, rows[:20], keys[:20])
    assert runtime.count_held(keys) == 20
    np.testing.assert_allclose(runtime.extend(rows, 20, keys), want, atol=1e-4)
    assert runtime.count_held(keys[:30]) == 0


def test_depths() -> None:
    assert [list_selects(n) for n in (1, 3, 4, 12, 13, 24, 32)] == [
        (), (), (2,), (2,), (2, 4), (2, 7), (2, 9),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kv_policy": "none"}, "8 rows to read need a policy that chooses them"),
        ({"kv_policy": "h2o"}, "8 rows to read need a policy that chooses them"),
        ({"kv_reads": 0}, "0 rows to read are none"),
        ({"kv_reads": 1000}, "1000 rows to read are more than the 100 slots"),
        ({"kv_slots": 50}, "gives up no row, so that its cache cannot have 50 slots"),
        ({"kv": "kivi"}, "reads single rows and a kivi cache keeps none by itself"),
        ({"prefill": "fastv"}, "lets layers share rows and fastv takes rows away"),
        ({"kv_policy": "tidal"}, "KV policy 'tidal' is unknown; choose none, .*tidaldecode"),
    ],
)
def test_what_cannot_be_combined_is_refused(options, words, deep: Path, tmp_path: Path) -> None:
    sizes = {"budgets": "full", "prompt_tokens": PROMPT, "new_tokens": NEW, "kv_reads": READ}
    with pytest.raises(UsageError, match=words):
        export_model(deep, tmp_path / "x", **sizes | {"kv_policy": "tidaldecode"} | options)
    assert list(tmp_path.iterdir()) == []


def test_a_shallow_decoder_or_one_with_windows_is_refused(tiny_llava, model_dir, tmp_path) -> None:
    with pytest.raises(UsageError, match="this decoder has 2 layers"):
        export_model(model_dir, tmp_path / "x", budgets="full", kv_policy="tidaldecode")
    model = tiny_llava.write_tiny_llava(tmp_path / "model", decoder="mistral")
    with pytest.raises(IncompatibleError, match="tidaldecode knows plain attention only"):
        export_model(model, tmp_path / "x", budgets="full", kv_policy="tidaldecode")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"keep": [90] * 5}, r"ort graphs of compact empty layers \[\], not each one once"),
        ({"keep": [90]}, r"\$\.kv\.keep has 1 entries"),
        ({"filing": "groups"}, r"\$\.kv\.filing groups goes with a ring"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(change, words, bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    wrong = msgspec.structs.replace(manifest, kv=msgspec.structs.replace(manifest.kv, **change))
    with pytest.raises(BundleError, match=words):
        parse_manifest(encode_manifest(wrong))


@pytest.mark.parametrize("slots", [[100, 100, 100, 100, 101], [99] * 5])
def test_other_rows_than_the_graphs_are_refused(slots: list[int], bundle: Path) -> None:
    opened = Bundle.open(bundle)
    kv = msgspec.structs.replace(opened.manifest.kv, slots=slots)
    object.__setattr__(opened, "manifest", msgspec.structs.replace(opened.manifest, kv=kv))
    with pytest.raises(BundleError, match=r"have 100 rows, and \$\.kv\.slots is"):
        BundleRuntime(opened, threads=1)
