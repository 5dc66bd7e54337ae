"""What is held back of logits, against transformers' own processors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import generation as hf

from edgetok.bundle.manifest import Generation
from edgetok.errors import UsageError
from edgetok.runtimes.text.processors import keep_likeliest
from edgetok.runtimes.text.sampling import Sampling

WIDTH, STOPS = 12, [2, 5]
IDS = st.lists(st.integers(0, WIDTH - 1), min_size=1, max_size=20)
SOME = st.lists(st.integers(0, WIDTH - 1), max_size=4)
ASKED = st.fixed_dictionaries(
    {
        "repetition_penalty": st.sampled_from([0.5, 1.0, 1.1, 1.3, 3.0]),
        "no_repeat_ngram_size": st.integers(0, 4),
        "min_length": st.integers(0, 24),
        "min_new_tokens": st.integers(0, 4),
        "suppress_ids": SOME,
        "begin_suppress_ids": SOME,
    }
)


def processors(asked: dict[str, Any], prompt_length: int) -> Any:
    """Those that `generate` would put together, by transformers itself."""
    config = hf.GenerationConfig(
        repetition_penalty=asked["repetition_penalty"],
        no_repeat_ngram_size=asked["no_repeat_ngram_size"],
        min_length=asked["min_length"],
        min_new_tokens=asked["min_new_tokens"],
        suppress_tokens=asked["suppress_ids"] or None,
        begin_suppress_tokens=asked["begin_suppress_ids"] or None,
    )
    config._eos_token_tensor = torch.tensor(STOPS)

    class Bare(hf.GenerationMixin):
        class config:
            is_encoder_decoder = False

    return Bare()._get_logits_processor(config, prompt_length, device="cpu")


@settings(deadline=None, max_examples=150)
@given(IDS, ASKED, st.integers(0, 2**32 - 1))
def test_scores_are_those_of_transformers(
    prompt: list[int], asked: dict[str, Any], seed: int
) -> None:
    draw = np.random.default_rng(seed)
    sampler = Sampling(asked=Generation(**asked)).sampler(prompt, STOPS)
    list_of_theirs, seen = processors(asked, len(prompt)), list(prompt)
    for _ in range(6):
        logits = draw.normal(0, 4, WIDTH).astype(np.float32)
        wanted = list_of_theirs(torch.tensor([seen]), torch.from_numpy(logits.copy())[None])[0]
        np.testing.assert_array_equal(sampler.process(logits), wanted.numpy())
        token = sampler(logits)
        assert token == int(wanted.argmax())
        seen.append(token)


@settings(deadline=None)
@given(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0, 3.0]), min_size=1), st.integers(1, 12))
def test_top_k_is_that_of_transformers(values: list[float], count: int) -> None:
    logits = np.array(values, np.float32)
    wanted = hf.TopKLogitsWarper(count)(None, torch.from_numpy(logits.copy())[None])[0]
    keep_likeliest(logits, count)
    np.testing.assert_array_equal(logits, wanted.numpy())


def test_what_is_held_back_is_never_drawn() -> None:
    """Where but one of 40 tokens is left, that one is drawn, by every seed."""
    logits = np.zeros(40, np.float32)
    asked = Generation(suppress_ids=[i for i in range(40) if i != 7])
    for seed in range(20):
        assert Sampling(temperature=50.0, seed=seed, asked=asked).sampler()(logits) == 7


def test_an_answer_may_ask_otherwise() -> None:
    asked = Generation(repetition_penalty=1.3, top_k=4)
    own = Sampling(repetition_penalty=1.0, asked=asked)
    logits = np.array([2.0, 1.9], np.float32)
    assert own.sampler([0])(logits) == 0
    assert Sampling(asked=asked).sampler([0])(logits) == 1
    assert (own.top_k, Sampling(top_k=0, asked=asked).top_k) == (4, 0)


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 0.0},
        {"repetition_penalty": float("nan")},
        {"top_k": -1},
        {"no_repeat_ngram_size": -1},
        {"min_new_tokens": -2},
    ],
)
def test_what_is_out_of_range_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        Sampling(**options)
