"""What a generation config asks for, and what of it is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import GenerationConfig

from edgetok.bundle.manifest import Generation
from edgetok.errors import InputError
from edgetok.families.generation import read_generation


def read(**asked: Any) -> Generation | None:
    model = SimpleNamespace(
        generation_config=GenerationConfig(**asked), config=SimpleNamespace(image_token_id=9)
    )
    return read_generation(model, 100)


@pytest.mark.parametrize(
    "defaults", [{}, GenerationConfig()._get_default_generation_params()], ids=["empty", "all"]
)
def test_the_defaults_of_transformers_ask_for_nothing_of_greedy_answers(
    defaults: dict[str, Any],
) -> None:
    found = read(**defaults)
    assert found is None or found == Generation(top_k=50, image_id=9)


def test_what_is_asked_is_read() -> None:
    found = read(repetition_penalty=1.2, suppress_tokens=[-1, 7, 3, 500], top_k=4)
    assert found == Generation(repetition_penalty=1.2, suppress_ids=[3, 7], top_k=4, image_id=9)


@pytest.mark.parametrize(
    "asked",
    [
        {"num_beams": 4},
        {"encoder_repetition_penalty": 1.5},
        {"bad_words_ids": [[3, 4]]},
        {"exponential_decay_length_penalty": (5, 1.1)},
        {"do_sample": True, "min_p": 0.1},
        {"do_sample": True, "typical_p": 0.9},
    ],
)
def test_what_is_not_computed_is_refused_by_name(asked: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{list(asked)[-1]} .*take it out"):
        read(**asked)


@pytest.mark.parametrize("asked", [{"min_p": 0.1}, {"typical_p": 0.9}, {"eta_cutoff": 0.1}])
def test_what_only_draws_is_no_matter_where_nothing_is_drawn(asked: dict[str, Any]) -> None:
    assert read(**asked) is None
