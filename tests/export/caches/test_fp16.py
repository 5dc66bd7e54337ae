"""Float16 caches in the shipped runtime, step by step against rows that NumPy rounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

import edgetok
from edgetok.bundle.buffers import cache_bytes, list_buffers
from edgetok.bundle.manifest import Flavour
from edgetok.bundle.reader import Bundle
from edgetok.errors import BundleError, IncompatibleError, InputError, UsageError
from edgetok.export.pipeline import export_model
from edgetok.families import open_model
from edgetok.families.internals import DynamicCache, StoringCache, name_cache_argument
from edgetok.families.parts import Parts
from edgetok.runtimes.runtime.runtime import BundleRuntime
from edgetok.runtimes.verify import verify

PROMPT, VISUAL, NEW = 40, 16, 24
SIZES = {"budgets": "full", "prompt_tokens": PROMPT, "new_tokens": NEW, "parity_images": 1}
FLAVOURS: tuple[Flavour, ...] = ("ort", "portable")


class RoundedRows(StoringCache):
    """Hugging Face's cache; a prompt sees its own rows as they are, all later rows see float16."""

    def store(self, _layer: int, *rows: Any) -> Any:
        return (torch.from_numpy(x.numpy().astype(np.float16)).float() for x in rows)


@pytest.fixture(scope="module")
def bundle16(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fp16") / "x.bundle"
    export_model(model_dir, out, kv="fp16", flavour="portable", **SIZES)
    return out


@pytest.fixture(scope="module")
def parts(model_dir: Path) -> Parts:
    return open_model(model_dir)


def embed(parts: Parts, rows: int) -> torch.Tensor:
    ids = torch.arange(rows) * 7919 % parts.text.vocabulary
    return parts.text.embed(ids).detach()[None]


def follow(runtime: BundleRuntime, embeds: torch.Tensor, ids: list[int]) -> np.ndarray:
    logits = [runtime.prefill(runtime.ladder.largest, embeds[0].numpy()).copy()]
    return np.stack([*logits, *(runtime.step(token).copy() for token in ids)])


@torch.no_grad()
def expect(parts: Parts, embeds: torch.Tensor, ids: list[int], cache: DynamicCache) -> np.ndarray:
    text, found = parts.text, []
    for rows in [embeds, *(text.embed(torch.tensor([[token]])) for token in ids)]:
        told = {name_cache_argument(text.model): cache}
        out = text.model(inputs_embeds=rows, use_cache=True, **told)
        found.append(text.head(out.last_hidden_state[0, -1]).numpy())
    return np.stack(found)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("rows", [1, 9, PROMPT + VISUAL])
def test_every_step_is_the_reference_s_until_the_cache_is_full(
    flavour: Flavour, rows: int, bundle16: Path, parts: Parts
) -> None:
    runtime = BundleRuntime(Bundle.open(bundle16), threads=1, flavour=flavour)
    steps = max(runtime.manifest.kv.slots) - rows
    ids = [5 + 3 * step % 200 for step in range(steps)]
    embeds = embed(parts, rows)
    exact = expect(parts, embeds, ids, DynamicCache())
    got, want = follow(runtime, embeds, ids), expect(parts, embeds, ids, RoundedRows())
    # A number that lies between two of float16 may be rounded to either, a thousandth of it apart.
    np.testing.assert_allclose(got, want, atol=1e-2)
    assert np.abs(got - want).mean() < np.abs(got - exact).mean() / 4
    with pytest.raises(InputError, match="is full"):
        runtime.step(1)


def test_rounding_is_what_makes_the_difference(bundle16: Path, parts: Parts) -> None:
    """The prompt answers as without rounding; a step does not, by about a float16's last bit."""
    runtime, embeds = BundleRuntime(Bundle.open(bundle16), threads=1), embed(parts, 30)
    got, exact = follow(runtime, embeds, [7]), expect(parts, embeds, [7], DynamicCache())
    np.testing.assert_allclose(got[0], exact[0], atol=1e-4)
    assert 2e-5 < np.abs(got[1] - exact[1]).max() < 1e-1


def test_memory_is_half_of_float32(bundle16: Path, bundle: Path, held_bytes) -> None:
    manifest = Bundle.open(bundle16).manifest
    for flavour in FLAVOURS:
        runtime = BundleRuntime(Bundle.open(bundle16), threads=1, flavour=flavour)
        rows = manifest.kv.layers * manifest.kv.slots[0] * manifest.kv.kv_heads
        wanted = rows * manifest.kv.head_dim * 2 * 2  # keys and values, of two bytes
        assert held_bytes(runtime) == cache_bytes(manifest, flavour) == wanted
        assert {b.dtype for b in list_buffers(manifest, flavour).values()} == {"float16"}
    whole = Bundle.open(bundle).manifest
    assert (
        cache_bytes(whole) / whole.kv.slots[0] == 2 * cache_bytes(manifest) / manifest.kv.slots[0]
    )


def test_answers_and_verifies(bundle16: Path) -> None:
    model, image = edgetok.load(bundle16, threads=1), np.zeros((20, 20, 3), np.uint8)
    asked = [model.generate(image, "What is it?", max_new_tokens=9).token_ids for _ in range(2)]
    assert asked[0] == asked[1]
    assert not verify(Bundle.open(bundle16), model).failures
    talk = model.converse(image)
    assert talk.ask("What is it?", max_new_tokens=3).token_ids
    assert talk.ask("Why?", max_new_tokens=3).token_ids


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kv_policy": "h2o"}, "a fp16 cache holds each row in its place"),
        ({"prefill": "fastv"}, "fills all layers alike"),
        ({"kv_channels": 4}, "channels of keys need a cache that prunes them"),
        ({"kv_policy": "tidaldecode"}, "keeps none by itself"),
    ],
)
def test_what_does_not_go_together_is_refused(options, message, model_dir, tmp_path) -> None:
    with pytest.raises(UsageError, match=message):
        export_model(model_dir, tmp_path / "x.bundle", kv="fp16", **SIZES, **options)
    assert not (tmp_path / "x.bundle").exists()


def test_decoders_with_more_than_plain_attention_are_refused(tiny_llava, tmp_path: Path) -> None:
    model = tiny_llava.write_tiny_llava(tmp_path / "model", decoder="gemma2")
    with pytest.raises(IncompatibleError, match="a fp16 cache knows plain attention only"):
        export_model(model, tmp_path / "x.bundle", kv="fp16", **SIZES)


@pytest.mark.parametrize("slots", [[79, 79], [81, 81], [80, 81]])
def test_other_rows_than_the_graphs_are_refused(slots: list[int], bundle16: Path) -> None:
    opened = Bundle.open(bundle16)
    kv = msgspec.structs.replace(opened.manifest.kv, slots=slots)
    object.__setattr__(opened, "manifest", msgspec.structs.replace(opened.manifest, kv=kv))
    with pytest.raises(BundleError, match=r"have 80 rows, and \$\.kv\.slots is"):
        BundleRuntime(opened, threads=1)
