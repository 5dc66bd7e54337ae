"""Prefill graphs for prompts of several lengths: the same weights, the same answers, one gate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from edgetok.bundle.reader import Bundle
from edgetok.errors import UsageError, VerificationError
from edgetok.export.caches.plain import scheme
from edgetok.export.pipeline import export_model
from edgetok.export.stages.decoder import Prefill
from edgetok.ladder import Rung, halve_prompt, parse_prompt_tokens
from edgetok.runtimes.load import load
from edgetok.runtimes.verify import verify

NEW_TOKENS = 90  # so that there is room for both sizes of chunks
SIZES = {"prompt_tokens": "40,24,56", "new_tokens": NEW_TOKENS, "parity_images": 1}


@pytest.fixture(scope="module")
def several(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lengths") / "several.bundle"
    export_model(model_dir, out, budgets="4,full", **SIZES)
    return out


def weights_of(bundle: Bundle, file: str) -> set[tuple[str, ...]]:
    """Where the weights of a graph lie."""
    graph = onnx.load_from_string((bundle.root / file).read_bytes()).graph
    return {
        tuple(entry.value for entry in sorted(tensor.external_data, key=lambda e: e.key))
        for tensor in graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    }


def test_graphs_of_all_lengths_share_their_weights(several: Path) -> None:
    opened = Bundle.open(several)
    assert [rung.shorter for rung in opened.ladder] == [(24, 40)] * 2
    assert [rung.prompt_tokens for rung in opened.ladder] == [56] * 2
    for budget in opened.ladder.budgets:
        files = [f"onnx/ort/prefill_{budget}{end}.onnx" for end in ("", "_24", "_40")]
        assert [s.file for s in opened.stages("prefill", budget)] == [files[0], files[2], files[1]]
        assert len({frozenset(weights_of(opened, file)) for file in files}) == 1
        assert all(opened.manifest.files[file].bytes < 100_000 for file in files)
    extends = [f"onnx/ort/extend{end}.onnx" for end in ("", "_16")]
    assert [s.file for s in opened.stages("extend", 4)] == extends
    assert weights_of(opened, extends[0]) == weights_of(opened, extends[1])


def question_of(model: Any, tokens: int) -> str:
    """A question whose prompt has so many text tokens."""
    for words in range(80):
        for end in ("", "?", "?!", "?!."):
            text = " ".join(["a"] * words) + end
            if model.processor.encode(text).tokens == tokens:
                return text
    raise AssertionError(f"no prompt of {tokens} tokens")


@pytest.mark.parametrize("tokens", [24, 25, 40, 41, 56])
def test_answers_are_those_of_hugging_face(several: Path, model_dir: Path, tokens: int) -> None:
    """At lengths that fill a graph, and at those that need the next one, with all visual tokens."""
    import torch
    from transformers import LlavaForConditionalGeneration

    ours, noise = load(several, threads=1), np.random.default_rng(tokens)
    picture = Image.fromarray(noise.integers(0, 255, (40, 48, 3), dtype=np.uint8))
    text, budget = question_of(ours, tokens), ours.ladder.largest.budget
    prompt = ours.processor.encode(text)
    theirs = LlavaForConditionalGeneration.from_pretrained(model_dir, attn_implementation="eager")
    image = [theirs.config.image_token_id] * budget
    ids = torch.tensor([[*prompt.before, *image, *prompt.after]])
    pixels = torch.from_numpy(ours.processor.pixels(picture))
    with torch.no_grad():
        made = theirs.generate(
            input_ids=ids, pixel_values=pixels, max_new_tokens=12, do_sample=False
        )
    answer = ours.generate(picture, text, budget=budget, max_new_tokens=12)
    assert answer.prompt_tokens == tokens
    assert list(answer.token_ids) == made[0, ids.shape[1] :].tolist()


def test_the_bundle_verifies(several: Path) -> None:
    assert verify(Bundle.open(several), load(several, threads=1)).failures == ()


@pytest.mark.parametrize("options", [{"kv": "kivi"}, {"kv": "fp16"}, {"weights": "int4"}])
def test_other_caches_and_weights_pass_the_gate(
    model_dir: Path, tmp_path: Path, options: dict[str, str]
) -> None:
    out = tmp_path / "out.bundle"
    sizes = SIZES | {"prompt_tokens": "24,40"}
    export_model(model_dir, out, budgets="4", **(sizes | options))
    assert len(Bundle.open(out).stages("prefill", 4)) == 2


def test_the_gate_looks_at_every_length(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One graph that is wrong is enough, though no prompt of the samples would run in it."""

    class Wrong(Prefill):
        def read_logits(self, row: Any) -> Any:
            return -super().read_logits(row)

    build = scheme.build_prompt

    def build_wrongly(context: Any, parts: Any, reduction: Any, rows: int, visual: int) -> Any:
        if rows == visual + wrong:
            return Wrong(context, rows)
        return build(context, parts, reduction, rows, visual)

    monkeypatch.setattr(scheme, "build_prompt", build_wrongly)
    for tokens in (24, 40, 56):
        wrong = tokens
        with pytest.raises(VerificationError, match="prefill"):
            export_model(model_dir, tmp_path / "out.bundle", budgets="4", **SIZES)
        assert not (tmp_path / "out.bundle").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_tokens": "8,x"}, "prompt tokens 'x' are no whole number"),
        ({"prompt_tokens": "0,24"}, "prompt tokens 0 is outside 1"),
        ({"prompt_tokens": ""}, "prompt tokens '' are no whole number"),
        ({"prompt_tokens": range(30, 39)}, "9 numbers of prompt tokens; give 1 to 8"),
        ({"prompt_tokens": "2,40"}, "2 has room for no prompt: the template alone takes"),
        ({"prompt_tokens": "24,40", "kv_policy": "snapkv"}, "--kv-policy snapkv has one prefill"),
        ({"prompt_tokens": "24,40", "prefill": "fastv"}, "--prefill fastv has one prefill graph"),
        ({"prompt_tokens": "24,40", "kv": "zipcache", "new_tokens": 99}, "--kv zipcache has one"),
    ],
)
def test_lengths_that_cannot_be_are_refused(
    model_dir: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        export_model(model_dir, tmp_path / "out.bundle", **({"budgets": "4"} | options))
    assert not (tmp_path / "out.bundle").exists()


def test_lengths_are_read_as_users_write_them() -> None:
    assert parse_prompt_tokens(96) == parse_prompt_tokens("96") == (96,)
    assert parse_prompt_tokens(" 96,24 ,96") == parse_prompt_tokens([24, "96"]) == (24, 96)


@pytest.mark.parametrize(
    ("budget", "longest", "least", "shorter"),
    [
        (16, 96, 20, (24, 48)),
        (64, 96, 20, (24, 48)),
        (192, 96, 20, (48,)),  # 216 rows are no eighth fewer than 240
        (576, 96, 20, ()),
        (16, 96, 25, (48,)),  # a template too long for 24
        (16, 400, 20, (100, 200)),
    ],
)
def test_a_rung_has_halves_of_its_prompt_that_are_worth_it(
    budget: int, longest: int, least: int, shorter: tuple[int, ...]
) -> None:
    rung = Rung(budget, longest, budget + longest + 128)
    assert halve_prompt(rung, least).shorter == shorter
