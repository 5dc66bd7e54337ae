"""What holds for every method that reads the question."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from edgetok import names
from edgetok.methods import METHODS, Method
from edgetok.tokens import Features

GRID, K = (10, 10), 20
ASKING = [method for method in METHODS.values() if method.reads_prompt]
every_method = pytest.mark.parametrize("method", ASKING, ids=lambda method: method.name)


def with_text(features: Features, text: torch.Tensor, mask: torch.Tensor) -> Features:
    probes = {**features.probes, names.TEXT_EMBEDS: text, names.TEXT_MASK: mask}
    return replace(features, probes=probes)


def kept(method: Method, features: Features) -> list[int]:
    return method.compress(features, K).indices.tolist()


def test_four_methods_read_the_question() -> None:
    assert {m.name for m in ASKING} == {"cdpruner", "mmtok", "catp", "explainability"}
    assert all(m.tower_needs == () for m in ASKING)
    assert METHODS["visionzip"].tower_needs == METHODS["visionzip"].needs


@every_method
def test_padding_changes_nothing(method: Method, case: str, features_of: Any) -> None:
    features = features_of(case, GRID, method.needs)
    text, mask = features.question
    wanted = kept(method, features)
    for rows in (1, 23, 55):
        noise = 50 * torch.randn(rows, text.shape[1], generator=torch.Generator().manual_seed(1))
        behind = with_text(features, torch.cat([text, noise]), torch.cat([mask, torch.zeros(rows)]))
        before = with_text(features, torch.cat([noise, text]), torch.cat([torch.zeros(rows), mask]))
        alone = with_text(features, text[mask.bool()], mask[mask.bool()])
        assert kept(method, behind) == kept(method, before) == kept(method, alone) == wanted


@every_method
def test_other_questions_keep_other_tokens(method: Method, features_of: Any) -> None:
    features = features_of("random", GRID, method.needs)
    text, mask = features.question
    assert kept(method, with_text(features, -text, mask)) != kept(method, features)
    shuffled = text[[0, 1, 2, 6, 5, 4, 3, 7, 8]]  # rows 3 to 6 are the question
    assert kept(method, with_text(features, shuffled, mask)) == kept(method, features)


@every_method
def test_without_a_question_the_text_does_not_matter(method: Method, features_of: Any) -> None:
    features = features_of("random", GRID, method.needs)
    text, mask = features.question
    nothing = [with_text(features, rows, mask * 0) for rows in (text, -text, text * 0)]
    found = [kept(method, asked) for asked in nothing]
    assert found[0] == found[1] == found[2]
    assert len(set(found[0])) == K


@pytest.mark.parametrize("name", ["cdpruner", "mmtok", "catp", "explainability"])
def test_the_token_that_is_the_question_is_kept(name: str, features_of: Any) -> None:
    features = features_of("random", GRID, METHODS[name].needs)
    text, mask = features.question
    asked = with_text(features, features.x[63:64].repeat(len(text), 1), mask)
    assert 63 in METHODS[name].compress(asked, 2 if name != "catp" else K).indices.tolist()
