"""KIVI caches and ZipCaches in the shipped runtime, step by step against rounded rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

import edgetok
from edgetok import names
from edgetok.bundle.buffers import cache_bytes
from edgetok.bundle.manifest import Flavour, encode_manifest
from edgetok.bundle.parse import parse_manifest
from edgetok.bundle.reader import Bundle
from edgetok.errors import BundleError, IncompatibleError, InputError, UsageError
from edgetok.export.caches.kivi.reference import KiviReference
from edgetok.export.caches.zipcache.reference import ZipReference
from edgetok.export.pipeline import export_model
from edgetok.families import open_model
from edgetok.families.parts import Parts
from edgetok.kv.stores.kivi import BITS, RING_ROWS
from edgetok.kv.stores.zipcache import ZipShape, count_salient
from edgetok.methods import find_method
from edgetok.runtimes.runtime.runtime import BundleRuntime
from edgetok.runtimes.verify import verify

PROMPT, VISUAL, NEW = 48, 16, 70
FLAVOURS: tuple[Flavour, ...] = ("ort", "portable")
QUICK = {"kivi": FLAVOURS, "zipcache": ("ort",)}  # a second flavour is half of an export more
KINDS = [
    *QUICK.items(),
    pytest.param("zipcache", FLAVOURS, marks=pytest.mark.slow),
    pytest.param("kivi4", FLAVOURS, marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def export(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Bundles by precision of the cache, each exported, and so proved, once; without samples."""
    made: dict[tuple[str, Flavour], Path] = {}

    def make(kv: str, flavours: tuple[Flavour, ...] | None = None) -> Path:
        flavour = (flavours or QUICK[kv])[-1]
        if (kv, flavour) not in made:
            made[kv, flavour] = tmp_path_factory.mktemp("ringed") / "x.bundle"
            sizes = {"budgets": "full", "prompt_tokens": PROMPT, "new_tokens": NEW}
            out = made[kv, flavour]
            export_model(model_dir, out, parity_images=1, kv=kv, flavour=flavour, **sizes)
        return made[kv, flavour]

    return make


def embed(parts: Parts, rows: int) -> torch.Tensor:
    ids = torch.arange(rows) * 7919 % parts.text.vocabulary
    return parts.text.embed(ids).detach()[None]


def load_each(path: Path, flavours: tuple[Flavour, ...]) -> dict[Flavour, BundleRuntime]:
    opened = Bundle.open(path)
    return {flavour: BundleRuntime(opened, threads=1, flavour=flavour) for flavour in flavours}


def follow(runtime: BundleRuntime, embeds: torch.Tensor, ids: list[int]) -> np.ndarray:
    """Logits [1 + len(ids), W] of a prompt [1, n, D] and of given tokens behind it."""
    logits = [runtime.prefill(runtime.ladder.largest, embeds[0].numpy()).copy()]
    return np.stack([*logits, *(runtime.step(token).copy() for token in ids)])


@pytest.mark.parametrize(("kv", "flavours"), KINDS)
def test_every_step_over_two_flushes_is_the_reference_s(
    kv: str, flavours: tuple[Flavour, ...], export, model_dir: Path
) -> None:
    runtimes = load_each(export(kv, flavours), flavours)
    given = open_model(model_dir), find_method("visionzip"), RING_ROWS
    reference = ZipReference(*given) if kv == "zipcache" else KiviReference(*given, BITS[kv])
    ids = [5 + 3 * step for step in range(NEW)]
    for rows in (20, RING_ROWS, RING_ROWS + 1, PROMPT + VISUAL):  # the ring: part, full, one, full
        embeds = embed(reference.parts, rows)
        want = reference.follow_steps(embeds, ids).numpy()
        found = [follow(runtime, embeds, ids) for runtime in runtimes.values()]
        for got in found:
            np.testing.assert_allclose(got, want, atol=2e-4)
        np.testing.assert_allclose(found[0], found[-1], atol=1e-4)


@pytest.mark.parametrize("kv", ["kivi", "zipcache"])
def test_rounding_is_what_makes_the_difference(kv: str, export, bundle: Path, model_dir) -> None:
    """A prompt answers as without rounding; what follows does not, so that rounding was seen."""
    dense, ringed = (BundleRuntime(Bundle.open(path), threads=1) for path in (bundle, export(kv)))
    rows = embed(open_model(model_dir), 60)[0].numpy()
    first = [r.prefill(r.ladder.largest, rows).copy() for r in (dense, ringed)]
    np.testing.assert_allclose(*first, atol=1e-4)
    second = [r.step(7).copy() for r in (dense, ringed)]
    assert np.abs(second[0] - second[1]).max() > 1e-2


@pytest.mark.parametrize(("kv", "flavours"), KINDS)
def test_memory_is_what_the_manifest_says(kv: str, flavours, export, held_bytes) -> None:
    for flavour, runtime in load_each(export(kv, flavours), flavours).items():
        held = held_bytes(runtime)
        assert held == cache_bytes(runtime.manifest, flavour)
    if kv == "zipcache":
        return
    slots, head = PROMPT + VISUAL + NEW, 16  # 4 groups of keys, and a ring
    groups, bits = (slots - 1) // RING_ROWS + 1, {"kivi": 2, "kivi4": 4}[kv]  # one on its way
    values = slots - RING_ROWS
    rows = (groups * RING_ROWS + values) * head * bits // 8
    ranges = 4 * 2 * (head * groups + values)
    ring = 4 * 2 * RING_ROWS * head
    assert held == 2 * 2 * (rows + ranges + ring)  # layers and heads


@pytest.mark.parametrize(
    ("kv", "flavour"), [("kivi", "ort"), ("kivi", "portable"), ("zipcache", "ort")]
)
def test_an_answer_goes_on_beyond_the_ring(kv: str, flavour: Flavour, export) -> None:
    model = edgetok.load(export(kv), threads=1, flavour=flavour)
    image = np.zeros((20, 20, 3), np.uint8)
    sampled = {"max_new_tokens": 60, "temperature": 2.0}
    answers = [model.generate(image, "What is it?", seed=s, **sampled) for s in range(4)]
    assert max(len(answer.token_ids) for answer in answers) > RING_ROWS
    again = model.generate(image, "What is it?", seed=3, **sampled)
    assert again.token_ids == answers[3].token_ids  # nothing of an answer stays behind
    assert not verify(Bundle.open(export(kv)), model).failures


@pytest.mark.slow
@pytest.mark.parametrize(("kv", "weights"), [("kivi", "int4"), ("zipcache", "int8")])
def test_rounded_weights_go_with_it(kv: str, weights: str, model_dir: Path, tmp_path: Path) -> None:
    """The export proves both flavours past a flush; here they answer, and repeat their proof."""
    out, sizes = tmp_path / "x.bundle", {"prompt_tokens": PROMPT, "new_tokens": NEW}
    options = {"kv": kv, "weights": weights, "flavour": "portable", "parity_images": 1}
    report = export_model(model_dir, out, budgets="4,full", **options, **sizes)
    assert report.parity["precision"] == {"weights": weights, "kv": kv}
    proved = {(c["stage"], c["budget"]) for c in report.parity["checks"]}
    wanted = itertools.product(("flush", "portable flush"), (4, VISUAL))
    assert set(wanted) <= proved
    for flavour in FLAVOURS:
        model = edgetok.load(out, threads=1, flavour=flavour)
        if flavour == "ort":  # golden answers are of these graphs; portable weights round otherwise
            assert not verify(Bundle.open(out), model).failures
        sampled = {"max_new_tokens": 60, "temperature": 2.0}
        image = np.zeros((20, 20, 3), np.uint8)
        answers = [model.generate(image, "What is it?", seed=s, **sampled) for s in range(4)]
        assert max(len(answer.token_ids) for answer in answers) > RING_ROWS


@pytest.mark.parametrize("kv", ["kivi", "zipcache"])
def test_a_full_cache_says_so(kv: str, export, model_dir: Path) -> None:
    runtime = BundleRuntime(Bundle.open(export(kv)), threads=1)
    rows = embed(open_model(model_dir), PROMPT + VISUAL)[0].numpy()
    runtime.prefill(runtime.ladder.largest, rows)
    assert runtime.rows_left == NEW
    for _ in range(NEW):
        assert np.isfinite(runtime.step(5)).all()
    with pytest.raises(InputError, match="full with 134 rows"):
        runtime.step(5)


def test_a_prompt_that_grew_goes_on_behind_and_another_begins_afresh(export, model_dir) -> None:
    runtime = BundleRuntime(Bundle.open(export("kivi")), threads=1)
    parts = open_model(model_dir)
    rows, keys = embed(parts, 45)[0].numpy(), [i * 7919 % 300 for i in range(45)]
    runtime.prefill(runtime.ladder.largest, rows[:30], keys[:30])
    want = [runtime.step(key).copy() for key in keys[30:]][-1]
    runtime.prefill(runtime.ladder.largest, rows[:30], keys[:30])
    assert runtime.count_held(keys) == 30
    np.testing.assert_array_equal(runtime.extend(rows, 30, keys), want)
    assert runtime.count_held(keys[:40]) == 0  # the first group is packed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kv_policy": "h2o"}, "h2o takes single rows out of them"),
        ({"kv_policy": "h2o", "kv": "kivi4"}, "a kivi4 cache packs rows in groups"),
        ({"kv_slots": 50}, "50 KV slots need a policy"),
        ({"prefill": "fastv"}, "fastv takes rows away between them; leave --prefill out"),
        (
            {"kv": "kivi3"},
            "kv precision 'kivi3' is unknown; choose fp32, int8, int4, fp16, kivi, kivi4",
        ),
        (
            {"budgets": "4", "prompt_tokens": 20, "new_tokens": 4},
            "packs groups of 32 rows and the largest rung needs 28",
        ),
    ],
)
def test_what_cannot_be_combined_is_refused(options, words, model_dir: Path, tmp_path: Path):
    with pytest.raises(UsageError, match=words):
        export_model(model_dir, tmp_path / "x.bundle", **{"kv": "kivi"} | options)
    assert list(tmp_path.iterdir()) == []


def test_a_decoder_with_a_window_is_refused(tiny_llava, tmp_path: Path) -> None:
    model = tiny_llava.write_tiny_llava(tmp_path / "model", decoder="mistral")
    with pytest.raises(IncompatibleError, match="a kivi cache knows plain attention only"):
        export_model(model, tmp_path / "x.bundle", budgets="full", kv="kivi")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ring": 0}, r"\$\.kv\.filing groups goes with a ring, and \$\.kv\.ring is 0"),
        ({"reuse": "rewind"}, r"\$\.kv\.reuse rewind: rows that were packed"),
        ({"ring": 1000}, r"\$\.kv\.ring 1000 exceeds \$\.kv\.slots 134"),
        ({"slots": [134, 135]}, "a ring takes all rows alike"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(change, words, export) -> None:
    manifest = Bundle.open(export("kivi")).manifest
    wrong = msgspec.structs.replace(manifest, kv=msgspec.structs.replace(manifest.kv, **change))
    with pytest.raises(BundleError, match=words):
        parse_manifest(encode_manifest(wrong))


@pytest.mark.parametrize("change", [{"ring": 16}, {"head_dim": 17}, {"filing": "tiers"}])
def test_another_ring_than_the_graphs_is_refused(change, export) -> None:
    opened = Bundle.open(export("kivi"))
    kv = msgspec.structs.replace(opened.manifest.kv, **change)
    object.__setattr__(opened, "manifest", msgspec.structs.replace(opened.manifest, kv=kv))
    with pytest.raises(BundleError, match="export again"):
        BundleRuntime(opened, threads=1)


@pytest.mark.parametrize("counts", [(-3, 23), (500, -480), (60, 0), (-9, 0)])
def test_counts_that_cannot_be_are_refused_before_rows_are_written(counts, export, model_dir):
    """A graph that says that a tier holds more than it does, or less than nothing."""
    runtime = BundleRuntime(Bundle.open(export("zipcache")), threads=1)
    runtime.prefill(runtime.ladder.largest, embed(open_model(model_dir), 20)[0].numpy())
    cache = runtime._graphs.decode.inputs
    cache[names.buffer_name("past", "filled", 1)].write(np.array(counts, np.int32))
    if sum(counts) != 20:  # the first layer decides when a ring is full
        cache[names.buffer_name("past", "filled", 0)].write(np.array(counts, np.int32))
    with pytest.raises(BundleError, match="export again"):
        for token in range(RING_ROWS + 1):
            runtime.step(5 + token)


@pytest.mark.parametrize("rows", [1, 2, 19, 64])
def test_tiers_have_room_for_every_prompt(rows: int) -> None:
    """Whatever the prompt's length, rounding never sends more rows to a tier than it holds."""
    shape = ZipShape(layers=1, kv_heads=1, head_dim=16, slots=134, prompt=64)
    high = count_salient(rows)
    held = {"high": high, "low": rows - high}
    for _ in range((134 - rows - 1) // shape.ring):
        held["high"] += count_salient(shape.ring)
        held["low"] += shape.ring - count_salient(shape.ring)
    assert all(held[tier] <= slots for tier, slots in shape.tiers.items())
    assert sum(shape.tiers.values()) < 134 + 4  # no tier is roomy
