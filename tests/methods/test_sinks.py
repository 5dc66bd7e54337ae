"""The mask of attention sinks, as an option of the methods that rank patches by attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from edgetok import names
from edgetok.errors import UsageError
from edgetok.methods import METHODS, find_method

GRID, N, SINKS = (10, 10), 100, [7, 42, 90]
MASKABLE = [name for name, method in METHODS.items() if method.ranked]


def with_sinks(features: Any) -> Any:
    """Three patches ten times as long as others, to which everything attends."""
    rows = features.tower_rows / features.tower_rows.norm(dim=1, keepdim=True)
    rows[SINKS] *= 10
    scores = {n: p.clone() for n, p in features.probes.items()}
    for name in scores.keys() - {names.TEXT_EMBEDS, names.TEXT_MASK}:
        if scores[name].shape == (N,):
            scores[name][SINKS] += 5
    return type(features)(rows, GRID, scores, rows)


@pytest.mark.parametrize("name", MASKABLE)
def test_sinks_are_kept_without_the_mask_and_not_with_it(name: str, features_of: Any) -> None:
    features = with_sinks(features_of("random", GRID))
    plain, masked = find_method(name), find_method(name, mask_sinks=True)
    k = 20
    assert set(SINKS) & set(plain.compress(features, k).indices.tolist())
    kept = masked.compress(features, k).indices.tolist()
    diverse = name in ("vispruner", "todre")  # half of it, or all but the first, is not ranked
    around = name == "hiprune"  # neighbours of anchors are kept whatever they are
    merged = name in ("visionzip", "visiondrop")  # a contextual token may be centred on one
    if not (diverse or around or merged):
        assert not set(SINKS) & set(kept)
    assert kept != plain.compress(features, k).indices.tolist()
    assert (masked.name, masked.verdict) == (f"{name}+masked-sinks", "own formulation")
    assert masked.needs == plain.needs


@pytest.mark.parametrize("name", ["fastervlm", "hired", "fopru"])
def test_without_sinks_the_mask_changes_nothing(name: str, features_of: Any) -> None:
    features = features_of("random", GRID)
    kept = [m.compress(features, 30).indices.tolist() for m in both(name)]
    assert kept[0] == kept[1]


def test_sinks_come_when_nothing_else_is_left(features_of: Any) -> None:
    features = with_sinks(features_of("random", GRID))
    kept = find_method("fastervlm", mask_sinks=True).compress(features, 98).indices.tolist()
    assert set(range(N)) - set(SINKS) < set(kept)


def test_the_name_asks_for_the_mask_as_the_option_does(features_of: Any) -> None:
    features = with_sinks(features_of("random", GRID))
    option = find_method("vtc-cls", mask_sinks=True)
    name = find_method("vtc-cls+masked-sinks")
    twice = find_method("vtc-cls+masked-sinks", mask_sinks=True)
    kept = [m.compress(features, 20).indices.tolist() for m in (option, name, twice)]
    assert kept[0] == kept[1] == kept[2]
    assert option.name == name.name == twice.name


def test_a_tower_without_cls_masks_the_attention_that_stands_in(features_of: Any) -> None:
    features = with_sinks(features_of("random", GRID))
    method = find_method("fastervlm", mask_sinks=True).for_tower(prefix_tokens=0)
    assert method.needs == (names.RECEIVED_ATTENTION,)
    assert not set(SINKS) & set(method.compress(features, 20).indices.tolist())


def test_tiles_are_masked_too() -> None:
    method = find_method("hired", mask_sinks=True).for_tiles((1, 1))
    assert method.tiles == (1, 1)
    assert method.name == "hired+masked-sinks"


@pytest.mark.parametrize("name", sorted(METHODS.keys() - set(MASKABLE)))
def test_methods_that_do_not_rank_refuse_the_mask(name: str) -> None:
    with pytest.raises(UsageError, match=rf"{name.replace('+', '.')} does not rank patches"):
        find_method(name, mask_sinks=True)


def both(name: str) -> tuple[Any, Any]:
    return find_method(name), find_method(name, mask_sinks=True)


def test_the_mask_is_a_static_part_of_the_scores() -> None:
    """A graph with data-dependent shapes could not be traced with fake tensors."""
    method = find_method("fastervlm", mask_sinks=True)

    def kept(x: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        from edgetok.tokens import Features

        return method.compress(Features(x, (4, 4), {names.CLS_ATTENTION: scores}), 5).indices

    class Stage(torch.nn.Module):
        def forward(self, x: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            return kept(x, scores)

    program = torch.export.export(Stage(), (torch.rand(16, 8), torch.rand(16)))
    x = torch.ones(16, 8)
    x[3] *= 50
    scores = torch.arange(16.0).flip(0)
    assert program.module()(x, scores).tolist() == [0, 1, 2, 4, 5]
