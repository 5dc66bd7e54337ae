"""Names, ratios and layers: what a user may type, and what each decoder makes of it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetok.errors import UsageError
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
    sparse = counts("sparsevlm:0.5209", 32, 576)
    assert (sparse[3], sparse[7], sparse[16]) == (300, 200, 118)
    vision = find_prefill("visiondrop")
    assert vision is not None
    assert [vision.counts(32, 48)[layer] for layer in (7, 8, 16, 24)] == [48, 35, 26, 19]
    assert counts("todre", 32, 576) == (576,) * 28 + (0,) * 4
    assert counts("dyvte:0.25", 32, 576) == (576,) * 8 + (0,) * 24


def test_aim_takes_four_even_steps() -> None:
    found = counts("aim", 28, 100)
    assert [found[layer] for layer in (13, 14, 15, 16, 18, 20, 27)] == [100, 75, 75, 50, 25, 0, 0]


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


def test_none_is_none() -> None:
    assert find_prefill("none") is None


@pytest.mark.parametrize("name", PREFILL_METHODS)
def test_a_decoder_of_one_layer_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="this decoder has 1; it needs 2 or more"):
        counts(name, 1, 64)
