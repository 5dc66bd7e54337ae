"""A seed draws the same tokens in both libraries."""

from __future__ import annotations

import json
from collections import Counter
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import generation as hf

import edgetok


@pytest.fixture(scope="module")
def pair(library, capi, pairs, tiny_vlm, tmp_path_factory) -> Any:
    recipe = tiny_vlm.Recipe(stop_ids=(), slots=100)
    folder = tiny_vlm.write(tmp_path_factory.mktemp("draw") / "tiny.bundle", recipe)
    return pairs.Pair(library, capi, folder)


@pytest.mark.parametrize("temperature", [1e-320, 1e-6, 0.3, 1.0, 1.7, 20.0])
@pytest.mark.parametrize("top_p", [1e-9, 0.2, 0.9, 0.999999, 1.0])
def test_draws_are_equal(pair: Any, pairs: ModuleType, temperature: float, top_p: float) -> None:
    for seed in (0, 1, 2**32 - 1, 2**32, 2**64 - 1):
        pair.ask(pairs.picture(1), "a", 4, temperature=temperature, top_p=top_p, seed=seed)


def test_many_seeds_draw_alike(pair: Any, pairs: ModuleType) -> None:
    """1,500 draws; and they are draws: tokens differ from seed to seed."""
    first: Counter[int] = Counter()
    for seed in range(30):
        answer = pair.ask(
            pairs.picture(1), "a", 4, temperature=1.2, top_p=0.95, seed=seed, max_new_tokens=50
        )
        assert len(answer.tokens) == 50
        first[answer.tokens[0]] += 1
    assert len(first) > 10


def test_greedy_and_a_small_nucleus_take_the_likeliest(pair: Any, pairs: ModuleType) -> None:
    likeliest = pair.ask(pairs.picture(1), "a", 4).tokens
    options: dict[str, Any]
    for options in ({"temperature": 1e-6}, {"temperature": 1.0, "top_p": 1e-9}, {"seed": 9}):
        assert pair.ask(pairs.picture(1), "a", 4, **options).tokens == likeliest


def test_turns_are_drawn_alike(pair: Any, pairs: ModuleType) -> None:
    talk = pair.converse(pairs.picture(1), 4)
    for seed, text in enumerate(("a", "b")):
        talk.ask(text, temperature=1.3, top_p=0.9, seed=seed, max_new_tokens=6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature -0.1 is outside"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"temperature": float("inf")}, "temperature inf"),
        ({"top_p": -0.5}, "top_p -0.5 is outside"),
        ({"top_p": 1.5}, "top_p 1.5"),
        ({"top_p": float("nan")}, "top_p nan"),
    ],
)
def test_values_out_of_range_are_refused(
    pair: Any, pairs: ModuleType, capi: ModuleType, options: dict[str, float], message: str
) -> None:
    image = pair.cpp.image(pairs.picture(1))
    with pytest.raises(capi.Failure, match=message) as caught:
        pair.cpp.generate(image, [2], [9], **options)
    assert caught.value.status == 2


def test_a_struct_of_before_sampling_is_greedy(
    pair: Any, pairs: ModuleType, capi: ModuleType
) -> None:
    """A program that was compiled against an older header: what lies behind is not looked at."""
    image, likeliest = pair.cpp.image(pairs.picture(1)), pair.ask(pairs.picture(1), "a", 4).tokens
    prompt = pair.python.processor.encode("a")
    found = pair.cpp.generate(
        image,
        prompt.before,
        prompt.after,
        budget=4,
        temperature=20.0,
        struct_size=capi.Request.temperature.offset,
    )
    assert found.tokens == likeliest


@pytest.mark.parametrize(
    "asked",
    [
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 3.0, "image_id": 0},
        {"no_repeat_ngram_size": 1, "image_id": 0},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 5},
        {"min_length": 30, "image_id": 0},
        {"suppress_ids": list(range(0, 260, 2)), "begin_suppress_ids": list(range(1, 260, 4))},
        {"top_k": 3, "top_p": 0.8},
        {"repetition_penalty": 0.7, "no_repeat_ngram_size": 3, "top_k": 20},
    ],
)
def test_what_the_checkpoint_asks_is_done_alike(
    asked: dict[str, Any], library, capi, pairs, tiny_vlm, tmp_path
) -> None:
    folder = tiny_vlm.write(tmp_path / "x.bundle", tiny_vlm.Recipe(slots=100))
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"generation": asked}))
    asking = pairs.Pair(library, capi, folder)
    for seed in range(4):
        options = {"temperature": float(seed), "seed": seed, "max_new_tokens": 30}
        asking.ask(pairs.picture(seed), "what", 4, **options)
    talk = asking.converse(pairs.picture(1), 4)
    for text in ("a", "b"):
        talk.ask(text, max_new_tokens=8)


GOLDEN: tuple[dict[str, Any], ...] = (
    {"repetition_penalty": 1.5},
    {"repetition_penalty": 0.5},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"suppress_tokens": list(range(0, 260, 3))},
    {"begin_suppress_tokens": list(range(0, 260, 2))},
    {"min_new_tokens": 5},
    {"min_length": 24},
    {
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 2,
        "min_new_tokens": 4,
        "suppress_tokens": [3, 4, 5],
        "begin_suppress_tokens": list(range(1, 260, 2)),
    },
)


@pytest.mark.parametrize("asked", GOLDEN, ids=str)
def test_tokens_are_those_of_transformers_processors(
    asked: dict[str, Any], library, capi, tiny_vlm, tmp_path, pairs
) -> None:
    """Each token of C++ is the likeliest of what transformers' own processors leave.

    Where stops are held back, half of all ids are some, so that it shows.
    """
    holds = "min_new_tokens" in asked or "min_length" in asked
    stops, image_id, budget = list(range(0, tiny_vlm.VOCABULARY, 2 if holds else 300)), 1, 4
    folder = tiny_vlm.write(tmp_path / "x.bundle", tiny_vlm.Recipe(slots=100, stop_ids=stops))
    path, names = folder / "manifest.json", {"suppress_tokens": "suppress_ids"}
    names |= {"begin_suppress_tokens": "begin_suppress_ids"}
    told = {names.get(name, name): value for name, value in asked.items()}
    tree = json.loads(path.read_text())
    path.write_text(json.dumps(tree | {"generation": told | {"image_id": image_id}}))
    python, cpp = edgetok.load(folder, threads=1), capi.Model(capi.Bundle(library, folder))
    changed = False
    for number in range(4):
        shown, prompt = pairs.picture(number), python.processor.encode(f"a{number}")
        found = cpp.generate(cpp.image(shown), prompt.before, prompt.after, budget=budget)
        seen = [*prompt.before, *[image_id] * budget, *prompt.after]
        theirs = processors(asked, len(seen), stops)
        logits = python.first_logits(shown, f"a{number}", budget=budget)
        assert found.tokens
        for token in found.tokens:
            scores = theirs(torch.tensor([seen]), torch.from_numpy(logits.copy())[None])[0]
            assert token == int(scores.argmax())
            changed |= token != int(logits.argmax())
            seen.append(token)
            if token in stops:
                break
            logits = python.runtime.step(token).copy()
    assert changed, "no case in which the option shows"


def processors(asked: dict[str, Any], prompt_length: int, stops: list[int]) -> Any:
    """Those that `generate` would put together, by transformers itself."""
    config = hf.GenerationConfig(**asked)
    config._eos_token_tensor = torch.tensor(stops)

    class Bare(hf.GenerationMixin):
        class config:
            is_encoder_decoder = False

    return Bare()._get_logits_processor(config, prompt_length, device="cpu")
