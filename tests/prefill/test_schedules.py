"""Names, ratios and layers: what a user may type, and what each decoder makes of it."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetok.calibration.planner import fit_sigmoid
from edgetok.errors import InputError, UsageError
from edgetok.prefill import PREFILL_METHODS, find_prefill
from edgetok.prefill.schedules import at_depths, by_powers, scale


def counts(text: str, layers: int, visual: int) -> tuple[int, ...]:
    found = find_prefill(text)
    assert found is not None
    return found.counts(layers, visual)


def test_published_counts_at_published_depth() -> None:
    fastv = counts("fastv", 32, 576)
    assert fastv == (576,) * 2 + (288,) * 30
    pyramid = counts("pyramiddrop", 32, 576)
    assert pyramid == (576,) * 8 + (288,) * 8 + (144,) * 8 + (72,) * 8
    assert counts("adatoken-3d", 32, 576) == pyramid
    vision = find_prefill("visiondrop")
    assert vision is not None
    assert [vision.counts(32, 48)[layer] for layer in (7, 8, 16, 24)] == [48, 35, 26, 19]
    assert counts("todre", 32, 576) == (576,) * 28 + (0,) * 4
    assert counts("dyvte:0.25", 32, 576) == (576,) * 8 + (0,) * 24


# What follows are numbers of the authors' programs, run on prompts of so many tokens.


def at(text: str, layers: int, *numbers: int) -> list[int]:
    found = counts(text, layers, 576)
    return [found[number] for number in numbers]


def test_sparsevlm_as_released() -> None:
    """Gumpest/SparseVLMs at 26a5f48, RETAIN_TOKN 192: cuts behind layers 2, 6 and 15 of 32."""
    assert at("sparsevlm", 32, 2, 3, 6, 7, 15, 16, 31) == [576, 309, 309, 204, 204, 113, 113]
    assert at("sparsevlm-v2", 32, 2, 3, 6, 7, 15, 16, 31) == [576, 300, 300, 200, 200, 118, 118]


def test_aim_as_released() -> None:
    """LaVi-Lab/AIM at edc24e9, its `retain_rate` of 28 layers."""
    assert at("aim", 28, *range(14, 24)) == [576, 504, 432, 360, 288, 216, 144, 72, 0, 0]


def test_dart_as_released() -> None:
    """DART's LLaVA, `max_num_trunction` 192, 128 and 64: 4 pivots and 8 times as many each."""
    assert at("dart", 32, 1, 2, 31) == [576, 132, 132]
    assert at(f"dart:{192 / 576}", 32, 1, 2) == [576, 196]
    assert at(f"dart:{64 / 576}", 32, 1, 2) == [576, 68]


def test_mustdrops_cache_as_released() -> None:
    """liuting20/MustDrop at 909afa5: layers 0 and 1 of 32 whole, from 2 on the final survivors."""
    method = PREFILL_METHODS["mustdrop"]
    held = method.held.counts(counts("mustdrop", 32, 576))
    assert held == (576, 576) + (182,) * 30


@given(st.sampled_from(sorted(PREFILL_METHODS)), st.integers(2, 64), st.integers(1, 700))
def test_every_decoder_gets_a_schedule(name: str, layers: int, visual: int) -> None:
    """As many entries as layers, all tokens at first, never rising."""
    found = counts(name, layers, visual)
    assert len(found) == layers and found[0] == visual
    assert all(a >= b >= 0 for a, b in pairwise(found))


@given(st.sampled_from(sorted(PREFILL_METHODS)), st.floats(0.01, 1.0), st.integers(2, 40))
def test_ratio_one_is_the_plain_decoder(name: str, ratio: float, layers: int) -> None:
    assert counts(f"{name}:1", layers, 64) == (64,) * layers
    found = find_prefill(f"{name}:1.0")
    assert found is not None and not any(found.skips(layers))
    assert len(counts(f"{name}:{ratio}", layers, 64)) == layers


def test_cuts_lie_within_the_decoder() -> None:
    assert [scale(layer, 2) for layer in (2, 8, 16, 24)] == [1, 1, 1, 1]
    assert by_powers(2, 64, (8, 16, 24), 0.5) == (64, 8)  # one layer for three cuts: the last holds
    assert at_depths(4, 10, (1, 3), (0.5, 0.0), 4) == (10, 5, 5, 0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fastvv", "no prefill method 'fastvv'; edgetok has fastv, pyramiddrop"),
        ("", "no prefill method ''"),
        ("fastv:", "the ratio of fastv is ''"),
        ("fastv:0", "the ratio of fastv is '0'; it must be above 0 and at most 1"),
        ("fastv:1.01", "'1.01'; it must be above 0 and at most 1, such as fastv:0.5"),
        ("fastv:-0.5", "'-0.5'"),
        ("fastv:nan", "'nan'"),
        ("fastv:half", "'half'"),
        ("none:0.5", "no prefill method 'none'"),
    ],
)
def test_wrong_names_and_ratios_are_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError) as found:
        find_prefill(text)
    assert words in str(found.value) and "\n" not in str(found.value)


def write_plan(folder: Path, **fields: object) -> str:
    path = folder / "plan.json"
    path.write_text(json.dumps({"method": "pyramiddrop", "shares": [1, 0.5, 0.5, 0]} | fields))
    return str(path)


def test_a_plan_says_what_each_layer_sees(tmp_path: Path) -> None:
    found = find_prefill(write_plan(tmp_path))
    assert found is not None
    assert (found.name, found.ratio) == ("pyramiddrop+planned", 0.5)
    assert found.counts(4, 576) == (576, 288, 288, 0) and found.counts(4, 3) == (3, 1, 1, 0)
    assert found.removed(4, 10) == [0, 5, 5, 10]
    with pytest.raises(UsageError, match=r"plan.json has shares for 4 layers .* has 6"):
        found.counts(6, 576)


def test_what_the_planner_finds_can_be_exported(tmp_path: Path) -> None:
    """Counts of a sigmoid at half the cost become shares, and those the same counts."""

    def cost(keep: tuple[int, ...]) -> float:
        return float(sum(keep))

    keep = fit_sigmoid(576, 6, metric=cost, cost=cost, budget=0.5 * 6 * 576)
    found = find_prefill(write_plan(tmp_path, shares=[count / 576 for count in keep]))
    assert found is not None and found.counts(6, 576) == keep


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"shares": [0.5, 0.5]}, "must begin with 1 and never rise"),
        ({"shares": [1, 0.5, 0.6]}, "must begin with 1 and never rise"),
        ({"shares": [1, 1.5]}, "no plan of shares by layer: Expected `float` <= 1"),
        ({"shares": [1]}, "no plan of shares by layer"),
        ({"shares": [1, "x"]}, "no plan of shares by layer"),
        ({"method": "todre"}, "no method 'todre' that chooses tokens; use fastv"),
        ({"method": "x"}, "no method 'x'"),
        ({"more": 1}, "unknown field `more`"),
    ],
)
def test_wrong_plans_are_refused(fields: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises((UsageError, InputError)) as found:
        find_prefill(write_plan(tmp_path, **fields))
    assert words in str(found.value) and "\n" not in str(found.value)


def test_a_missing_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.json is no plan"):
        find_prefill(str(tmp_path / "no.json"))


def test_none_is_none() -> None:
    assert find_prefill("none") is None


@pytest.mark.parametrize("name", PREFILL_METHODS)
def test_a_decoder_of_one_layer_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="this decoder has 1; it needs 2 or more"):
        counts(name, 1, 64)
