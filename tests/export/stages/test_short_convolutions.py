"""Layers of short convolutions (LFM2): what they remember, in PyTorch and in graphs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import edgetok
from edgetok.bundle.buffers import cache_bytes, list_buffers
from edgetok.bundle.manifest import Flavour
from edgetok.bundle.reader import Bundle
from edgetok.errors import IncompatibleError
from edgetok.export.parity.sessions import GraphRunner
from edgetok.export.pipeline import export_model
from edgetok.export.reference.model import Reference
from edgetok.export.stages.short_convolutions import Convolutions
from edgetok.families import open_model
from edgetok.families.parts import Parts
from edgetok.ladder import build_ladder
from edgetok.methods import find_method

WIDTH, KERNEL, PADDED = 3, 4, 8


@pytest.fixture(scope="module")
def parts(tiny_llava: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    path = tmp_path_factory.mktemp("lfm2")
    opened = open_model(tiny_llava.write_tiny_llava(path / "model", decoder="lfm2"))
    return replace(opened, text=replace(opened.text, stop_ids=()))


def test_layers_are_told_apart(parts: Parts) -> None:
    text = parts.text
    assert text.convolutions == (0, 2, 3) and text.kernel == 3
    assert [hasattr(layer, "self_attn") for layer in text.attending] == [True]


@pytest.mark.parametrize("true_rows", range(1, PADDED + 1))
def test_what_pads_a_prompt_is_not_remembered(parts: Parts, true_rows: int) -> None:
    """Of each prompt, those shorter than the reach too, the last true rows with zeros in front."""
    text = replace(parts.text, kernel=KERNEL)
    rows = torch.randn(1, WIDTH, PADDED)
    given = rows.clone()
    given[:, :, true_rows:] = 1e6
    memory = Convolutions(text, (), torch.tensor([true_rows - 1, 99], dtype=torch.int32))
    assert torch.equal(memory.convolve(given), given)
    want = [torch.zeros(WIDTH)] * (KERNEL - 1) + [rows[0, :, at] for at in range(true_rows)]
    assert torch.equal(memory.present[0][0], torch.stack(want[1 - KERNEL :], dim=1))


def test_each_layer_goes_on_from_its_own_rows(parts: Parts) -> None:
    """Two layers over a prompt of 5 rows, a chunk of 2 and a step: as if it were one piece."""
    text = replace(parts.text, kernel=KERNEL)
    rows = [torch.randn(1, WIDTH, 8) for _ in range(2)]
    past: tuple[torch.Tensor, ...] = ()
    for first, stop in ((0, 5), (5, 7), (7, 8)):
        lengths = torch.tensor([stop - 1]) if first == 0 else None
        memory = Convolutions(text, past, lengths)
        for layer in rows:
            seen = memory.convolve(layer[:, :, first:stop])
            assert torch.equal(seen, layer[:, :, max(0, first - 3) : stop])
        past = tuple(memory.present)
    assert [p.shape for p in past] == [(1, WIDTH, KERNEL - 1)] * 2


@pytest.mark.parametrize("flavour", ["ort", pytest.param("portable", marks=pytest.mark.slow)])
def test_graphs_carry_the_memory(
    building: ModuleType, parts: Parts, tmp_path: Path, flavour: Flavour
) -> None:
    """A prompt of two rows, shorter than its padding, then a chunk and steps."""
    builder = building.make_builder(parts, build_ladder((4,), 24, 12), flavour=flavour)
    runner: GraphRunner = building.open_graphs(builder, tmp_path, "prefill", "decode", "extend")
    text = parts.text
    embeds = torch.randn(1, 2, text.hidden)
    ids = torch.arange(runner.chunk_sizes[0]) % text.vocabulary
    chunk = text.embed(ids)[None]
    whole = torch.cat([embeds, chunk], dim=1)
    want = Reference(parts, find_method("pool")).answer(whole, 4)
    runner.begin(4, embeds[0].numpy())
    got = [runner.put(chunk[0].detach().numpy())]
    got += [runner.step(token) for token in want.ids[:-1]]
    np.testing.assert_allclose(np.stack(got), want.logits, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kv_policy": "h2o"}, "a KV policy knows plain attention only; use --kv-policy none"),
        ({"kv_policy": "tidaldecode"}, "tidaldecode knows plain"),
        ({"kv": "kivi"}, "a kivi cache knows plain"),
        ({"prefill": "fastv"}, "reduction at prefill knows plain"),
    ],
)
def test_what_takes_rows_away_is_refused(
    parts: Parts, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(IncompatibleError, match=f"short convolutions, and {message}"):
        export_model(parts.path, tmp_path / "out.bundle", budgets="4", method="pool", **options)
    assert not (tmp_path / "out.bundle").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kv", ["fp32", "int8"])
def test_answers_do_not_depend_on_what_was_asked_before(
    parts: Parts, tmp_path: Path, samples: Path, kv: Any
) -> None:
    """A memory cannot be taken back by rows: only what is put behind may be reused."""
    out = tmp_path / "out.bundle"
    given = {"samples": samples} if kv != "fp32" else {}
    export_model(
        parts.path,
        out,
        budgets="4,full",
        method="fastervlm",
        kv=kv,
        flavour="portable",
        prompt_tokens=40,
        new_tokens=24,
        parity_images=1,
        **given,
    )
    manifest = Bundle.open(out).manifest
    buffers = list_buffers(manifest, "ort").items()
    memory = [buffer.shape for name, buffer in buffers if name.startswith("past_convolution_")]
    assert (manifest.kv.layers, memory) == (1, [[1, manifest.text.hidden, 3 - 1]] * 3)
    assert manifest.kv.reuse == "append"
    row = 2 * 16 * {"fp32": 4, "int8": 1}[kv] * manifest.kv.kv_heads
    assert cache_bytes(manifest) == manifest.kv.slots[0] * row + 3 * 2 * manifest.text.hidden * 4
    picture = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    for flavour in ("ort", "portable"):
        model = edgetok.load(out, flavour=flavour)
        for question in ("who?", "who is it?", "who is", "who"):
            again = model.generate(picture, question, budget=16).token_ids
            model.forget()
            assert again == model.generate(picture, question, budget=16).token_ids
        asked = [converse(model, picture, between) for between in (False, True)]
        assert asked[0] == asked[1]


def converse(model: Any, picture: Any, between: bool) -> tuple[int, ...]:
    """The second turn of a conversation, with another question in front of it or not."""
    talk = model.converse(picture, budget=4)
    talk.ask("who", max_new_tokens=3)
    if between:
        model.generate(picture, "what", budget=16, max_new_tokens=2)
    answer: tuple[int, ...] = talk.ask("and now", max_new_tokens=4).token_ids
    return answer
