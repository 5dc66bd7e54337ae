"""Caches of constant size in the shipped runtime, step by step against lists of rows.

Every policy runs for more than twice its capacity, from prompts that fit and prompts that do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import edgetok
from edgetok import names
from edgetok.bundle.buffers import cache_bytes
from edgetok.bundle.reader import Bundle
from edgetok.errors import InputError, UsageError, VerificationError
from edgetok.export.caches.evicting.graphs import draw_numbers
from edgetok.export.pipeline import export_model
from edgetok.export.reference.cache import CacheReference
from edgetok.families import open_model
from edgetok.kv import POLICIES, Policy, find_policy, plan_eviction
from edgetok.kv.mixer import Mixer
from edgetok.kv.policies import lococo, snapkv
from edgetok.runtimes.runtime.runtime import BundleRuntime
from edgetok.runtimes.verify import verify

PROMPT, VISUAL, BEFORE = 48, 16, 5
SLOTS = {"pyramidkv": 60}
QUICK = ("streaming", "visual")
LEARNED = "lococo+learned"
SMALL = {
    "snapkv": snapkv.with_window(8),
    "pyramidkv": replace(snapkv.with_window(8), capacities=POLICIES["pyramidkv"].capacities),
}

Kept = Callable[..., tuple[BundleRuntime, CacheReference]]


def mixing_weights(eta: float = 0.5) -> dict[str, torch.Tensor]:
    """Of LoCoCo for the two layers of the tiny model: keys and values of 16 channels, 6 slots."""
    generator = torch.Generator().manual_seed(0)
    parts = {"weight": (6, 32, 7), "bias": (6,)}
    weights = {
        f"layers.{layer}.{part}": torch.randn(shape, generator=generator)
        for layer in range(2)
        for part, shape in parts.items()
    }
    return weights | {f"layers.{layer}.eta": torch.tensor([eta]) for layer in range(2)}


def policy_of(name: str) -> Policy:
    """As published, but for windows that a tiny cache has room for."""
    if name.startswith(LEARNED):
        eta = float(name.removeprefix(LEARNED).removeprefix(":") or 0.5)
        return lococo.learn(mixing_weights(eta))
    return replace(SMALL.get(name, POLICIES[name]), name=name)


@pytest.fixture(scope="module")
def export(model_dir: Path, samples: Path, tmp_path_factory) -> Callable[..., Path]:
    """Bundles by policy and other options, each exported once."""
    made: dict[tuple, Path] = {}

    def make(name: str, budgets: str = "full", slots: int | None = None, kv: str = "fp32") -> Path:
        key = (name, budgets, slots, kv)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("kept") / "x.bundle"
            export_model(
                model_dir,
                made[key],
                budgets=budgets,
                prompt_tokens=PROMPT,
                new_tokens=8,
                parity_images=1,
                samples=samples,
                kv=kv,
                kv_policy=policy_of(name),
                kv_slots=slots or SLOTS.get(name, 40),
            )
        return made[key]

    return make


@pytest.fixture(scope="module")
def kept(export, model_dir: Path) -> Kept:
    """A runtime and its reference."""
    text = open_model(model_dir).text

    def make(name: str, slots: int | None = None, **more) -> tuple[BundleRuntime, CacheReference]:
        policy = policy_of(name)
        room = plan_eviction(
            policy, slots or SLOTS.get(name, 40), len(text.layers), text.max_positions
        )
        runtime = BundleRuntime(Bundle.open(export(name, slots=slots, **more)), threads=1)
        assert runtime.manifest.kv.keep == list(room.keep)
        return runtime, CacheReference(text, room, draw_numbers(text, 0) if policy.drawn else None)

    return make


def prompt_rows(reference: CacheReference, rows: int, seed: int = 0) -> torch.Tensor:
    """Embeddings [1, rows, D] of random tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, reference.text.vocabulary, (1, rows), generator=generator)
    return reference.text.embed(ids).detach()


def begin(runtime: BundleRuntime, reference: CacheReference, rows: int) -> None:
    embeds = prompt_rows(reference, rows)
    visual = range(BEFORE, BEFORE + VISUAL)
    got = runtime.prefill(runtime.ladder.largest, embeds[0].numpy(), visual_start=BEFORE)
    want = reference.begin(embeds, visual)
    np.testing.assert_allclose(got, want.numpy(), atol=1e-4)
    assert_same_rows(runtime, reference)


def follow(runtime: BundleRuntime, reference: CacheReference, steps: int, seed: int = 1) -> None:
    for token in np.random.default_rng(seed).integers(4, 290, steps).tolist():
        got, want = runtime.step(token), reference.step(token)
        np.testing.assert_allclose(got, want.numpy(), atol=1e-4)
    assert_same_rows(runtime, reference)


def assert_same_rows(runtime: BundleRuntime, reference: CacheReference) -> None:
    """The same rows in the same order, with their angles: other sets would differ by units."""
    for layer, length in enumerate(runtime._rows.lengths):
        want = reference.keys(layer)
        assert length == want.shape[1]
        got = runtime._graphs.decode.inputs[names.past_key(layer)].host[0, :, :length]
        np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in (*POLICIES, LEARNED)],
)
def test_every_step_and_every_choice_is_the_reference_s(name: str, kept: Kept) -> None:
    runtime, reference = kept(name)
    for rows in (23, PROMPT + VISUAL):  # kept whole; packed, but in the widest layer of a pyramid
        begin(runtime, reference, rows)
        for seed in range(5):  # rows are compared after each fifth part
            follow(runtime, reference, 20, seed)
        assert min(runtime._rows.lengths) <= max(reference.plan.slots)


@pytest.mark.slow
def test_mixing_nothing_is_lococo(kept: Kept) -> None:
    """Learned weights at eta 0; at more, the first step behind a packed prompt shows it."""
    found = []
    for name in ("lococo", f"{LEARNED}:0", f"{LEARNED}:0.3"):
        runtime, reference = kept(name)
        embeds = prompt_rows(reference, PROMPT + VISUAL)[0].numpy()
        runtime.prefill(runtime.ladder.largest, embeds, visual_start=BEFORE)
        found.append(np.stack([runtime.step(token).copy() for token in range(5, 95)]))
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)
    assert np.abs(found[2][0] - found[0][0]).max() > 1e-3


@pytest.mark.parametrize("name", QUICK)
def test_a_cache_that_is_long_enough_is_a_dense_one(name: str, export, bundle: Path, model_dir):
    text = open_model(model_dir).text
    dense = BundleRuntime(Bundle.open(bundle), threads=1)
    roomy = BundleRuntime(Bundle.open(export(name, slots=110)), threads=1)
    embeds = prompt_rows(CacheReference(text, plan_eviction(find_policy(name), 110, 2)), 40)[
        0
    ].numpy()
    for runtime in (dense, roomy):
        runtime.prefill(runtime.ladder.largest, embeds, visual_start=BEFORE)
    for token in range(5, 60):
        np.testing.assert_allclose(roomy.step(token), dense.step(token), atol=2e-5)


@pytest.mark.parametrize(
    "name",
    ["streaming", *(pytest.param(n, marks=pytest.mark.slow) for n in ("snapkv", "a2sf"))],
)
def test_padding_changes_nothing(name: str, kept: Kept) -> None:
    runtime, reference = kept(name, budgets="8,full")
    for rows in (20, 50):
        embeds = prompt_rows(reference, rows)[0].numpy()
        logits = []
        for rung in runtime.ladder:
            found = [runtime.prefill(rung, embeds, visual_start=BEFORE).copy()]
            found += [runtime.step(token).copy() for token in range(10, 60)]
            logits.append(np.stack(found))
        np.testing.assert_allclose(logits[0], logits[1], atol=2e-5)


@pytest.mark.parametrize("name", QUICK)
def test_rows_at_angles_of_no_position_stay_right(name: str, kept: Kept) -> None:
    """As M-RoPE leaves them: a row has an angle per pair, and compaction must not touch it."""
    runtime, reference = kept(name)
    begin(runtime, reference, 30)
    random = np.random.default_rng(3)
    for layer, heads in enumerate(reference.rows):
        held = runtime._graphs.decode.inputs[names.past_key(layer)].host[0]
        for head, rows in enumerate(heads):
            for at, row in enumerate(rows):
                half = len(row.key) // 2
                rotated = row.key[:half] + 1j * row.key[half:]
                rotated = rotated * np.exp(1j * random.uniform(0, 6, half))
                key = np.concatenate([rotated.real, rotated.imag]).astype(np.float32)
                heads[head][at] = replace(row, key=key)
                held[head, at] = key
    follow(runtime, reference, 60)


def test_ties_go_to_the_older_row(kept: Kept) -> None:
    runtime, reference = kept("visual")
    begin(runtime, reference, 40)  # full: the first step compacts
    for layer, heads in enumerate(reference.rows):
        state = runtime._graphs.decode.inputs[names.past_state(layer)].host
        state[0] = 0.25
        for head, rows in enumerate(heads):
            heads[head] = [replace(row, score=0.25) for row in rows]
    follow(runtime, reference, 30)


@pytest.mark.parametrize("kv", ["int8", "int4"])
@pytest.mark.parametrize(
    "name", ["streaming", *(pytest.param(n, marks=pytest.mark.slow) for n in ("h2o", LEARNED))]
)
def test_whole_numbers_stay_close(name: str, kv: str, kept: Kept) -> None:
    """The gate has held every step against float32 rows; here they must go on and on."""
    runtime, reference = kept(name, kv=kv)
    embeds = prompt_rows(reference, 30)
    runtime.prefill(runtime.ladder.largest, embeds[0].numpy(), visual_start=BEFORE)
    want = reference.begin(embeds, range(BEFORE, BEFORE + VISUAL))
    cosines: list[float] = []
    for token in np.random.default_rng(0).integers(4, 290, 100).tolist():
        got, want = runtime.step(token), reference.step(token)
        cosines.append(float(torch.cosine_similarity(torch.tensor(got), want, dim=0)))
    assert np.mean(cosines) > {"int8": 0.98, "int4": 0.7}[kv]
    assert np.mean(cosines[-20:]) > {"int8": 0.98, "int4": 0.7}[kv]  # rounding does not pile up


@pytest.mark.parametrize("name", QUICK)
def test_an_answer_goes_on_beyond_the_cache(name: str, export) -> None:
    model = edgetok.load(export(name), threads=1)
    image, room = np.zeros((20, 20, 3), np.uint8), max(model.manifest.kv.slots)
    answers = [model.generate(image, "What is it?", max_new_tokens=90, temperature=2.0, seed=s)
               for s in range(8)]  # fmt: skip
    assert max(len(answer.token_ids) for answer in answers) > room
    assert {answer.stop_reason for answer in answers} <= {"stop", "length"}
    again = model.generate(image, "What is it?", max_new_tokens=90, temperature=2.0, seed=7)
    assert again.token_ids == answers[7].token_ids  # nothing of an answer stays behind
    assert not verify(Bundle.open(export(name)), model).failures


@pytest.mark.parametrize(("name", "kv"), [("visual", "fp32"), ("streaming", "int4")])
def test_memory_is_what_the_manifest_says(name: str, kv: str, kept: Kept, held_bytes) -> None:
    runtime, _ = kept(name, kv=kv)
    assert held_bytes(runtime) == cache_bytes(runtime.manifest)


def test_streaming_outlives_the_positions(kept: Kept) -> None:
    runtime, reference = kept("streaming")
    begin(runtime, reference, 30)
    for token in np.random.default_rng(0).integers(4, 290, 400).tolist():
        assert runtime.rows_left > 0
        logits = runtime.step(token)
    assert np.isfinite(logits).all()
    assert runtime.manifest.text.max_positions == 256


def test_positions_that_are_kept_end(kept: Kept) -> None:
    runtime, reference = kept("visual")
    begin(runtime, reference, 64)
    assert runtime.rows_left == 256 - 64
    for _ in range(runtime.rows_left):
        runtime.step(5)
    with pytest.raises(InputError, match="position"):
        runtime.step(5)


def test_a_prompt_over_its_limit_is_refused(kept: Kept) -> None:
    runtime, reference = kept("streaming")
    with pytest.raises(InputError, match=r"65 prompt rows; this rung has room for 1\.\.64"):
        runtime.prefill(runtime.ladder.largest, prompt_rows(reference, 65)[0].numpy())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kv_policy": "fifo"}, "KV policy 'fifo' is unknown; choose none, streaming"),
        ({"kv_slots": 30}, "30 KV slots need a policy"),
        ({"kv_policy": "h2o", "kv_slots": 2}, "raise --kv-slots to 3 or more"),
        ({"kv_policy": "snapkv", "kv_slots": 10}, r"raise --kv-slots to \d+ or more"),
        ({"kv_policy": "h2o", "kv_slots": 0}, r"raise --kv-slots to \d+ or more"),
        (
            {"kv_policy": "h2o", "kv_slots": 300, "budgets": "full"},
            "300 KV slots are more than the 256 positions",
        ),
        ({"kv": "int4"}, "--kv int4 measures its scales on your data"),
        ({"kv": "int2"}, "kv precision 'int2' is unknown; choose fp32, int8, int4"),
    ],
)
def test_what_cannot_be_combined_is_refused(options, words, model_dir: Path, tmp_path: Path):
    with pytest.raises(UsageError, match=words):
        export_model(model_dir, tmp_path / "x.bundle", **options)
    assert list(tmp_path.iterdir()) == []


def test_weights_for_another_policy_are_refused(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="KV policy h2o has no weights; --kv-weights is for loc"):
        export_model(model_dir, tmp_path / "x", kv_policy="h2o", kv_weights=tmp_path / "w")
    with pytest.raises(InputError, match=r"KV weights .* cannot be read: No such file"):
        export_model(model_dir, tmp_path / "x", kv_policy="lococo", kv_weights=tmp_path / "w")
    save_file(mixing_weights(), str(tmp_path / "w"))
    slots = {"kv_policy": "lococo", "kv_weights": tmp_path / "w", "kv_slots": 25}
    with pytest.raises(InputError, match=r"layers\.0\.weight .* mixes 6 rows; .* raise --kv-slots"):
        export_model(model_dir, tmp_path / "x", budgets="full", **slots)
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


@pytest.mark.slow
def test_a_bundle_holds_its_mixing(model_dir: Path, tmp_path: Path) -> None:
    save_file(mixing_weights(), str(tmp_path / "w"))
    options = {"budgets": "full", "prompt_tokens": PROMPT, "new_tokens": 8, "parity_images": 1}
    mixing = {"kv_policy": "lococo", "kv_weights": tmp_path / "w", "kv_slots": 40}
    export_model(model_dir, tmp_path / "x", **options, **mixing)
    bundle = Bundle.open(tmp_path / "x")
    assert bundle.manifest.kv.policy == LEARNED
    assert not verify(bundle, edgetok.load(tmp_path / "x", threads=1)).failures


@pytest.mark.slow
def test_mixing_that_is_wrong_is_seen(model_dir: Path, tmp_path: Path, monkeypatch) -> None:
    """A convolution that runs one row late."""
    right = Mixer.weigh
    monkeypatch.setattr(Mixer, "weigh", lambda self, rows, true: right(self, rows.roll(1, 1), true))
    options = {"budgets": "full", "prompt_tokens": PROMPT, "new_tokens": 8, "parity_images": 1}
    with pytest.raises(VerificationError, match=r"prefill|decode|compact"):
        export_model(
            model_dir, tmp_path / "x", **options, kv_policy=policy_of(LEARNED), kv_slots=40
        )


@pytest.mark.slow
@pytest.mark.parametrize("kv", ["int8", "int4"])
def test_a_coarse_cache_without_a_policy(kv: str, model_dir: Path, samples: Path, tmp_path: Path):
    out = tmp_path / "x.bundle"
    more = {"budgets": "full", "prompt_tokens": PROMPT, "parity_images": 2, "new_tokens": 20}
    report = export_model(model_dir, out, kv=kv, samples=samples, **more)
    assert report.parity["precision"]["kv"] == kv
    runtime = BundleRuntime(Bundle.open(out), threads=1)
    runtime.prefill(runtime.ladder.largest, np.zeros((3, 64), np.float32))
    assert np.isfinite(runtime.step(7)).all()
