"""Which rows stay, against sorting; and that kept keys are turned to where they move."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetok.kv import POLICIES
from edgetok.kv.select import choose, rank, rotate, rotate_back, take
from edgetok.kv.stored import pack, round_levels, store, unpack


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_choice_is_what_sorting_gives(data) -> None:
    rows = data.draw(st.integers(4, 30))
    count = data.draw(st.integers(2, rows))
    keep = data.draw(st.integers(1, count))
    sinks = data.draw(st.integers(0, keep))
    recent = data.draw(st.integers(0, keep - sinks))
    ranks = data.draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows))  # many ties
    got = choose(torch.tensor([ranks]).float(), torch.tensor(count), keep, sinks, recent)

    def order(row: int) -> tuple:
        always = row < sinks or row >= count - recent
        return (not always, -ranks[row] if not always else 0, row)

    assert got[0].tolist() == sorted(sorted(range(count), key=order)[:keep])


def test_heads_choose_for_themselves() -> None:
    ranks = torch.tensor([[3.0, 1, 2, 0], [0.0, 1, 2, 3]])
    assert choose(ranks, torch.tensor(4), 2, 0, 0).tolist() == [[0, 2], [2, 3]]


def test_visual_rows_go_first_and_then_the_oldest_text() -> None:
    policy = POLICIES["visual"]
    score = torch.tensor([[9.0, 1, 500, 2, 0, 0]])
    text = torch.tensor([[1.0, 0, 0, 0, 1, 1]])
    ranks = rank(policy, torch.stack([score, text]))
    order = ranks[0].argsort().tolist()
    assert order == [1, 3, 2, 0, 4, 5]


def test_salience_is_divided_by_the_queries_that_saw_the_row() -> None:
    row_state = torch.tensor([[[4.0, 3, 1]], [[8.0, 4, 1]]])
    assert rank(POLICIES["zipcache-salience"], row_state)[0].tolist() == [0.5, 0.75, 1.0]


@pytest.mark.parametrize("scaled", [1.0, 1.3])
def test_turning_back_undoes_rotary_embedding(scaled: float) -> None:
    """Also of rows at angles that no single position has, as M-RoPE gives them."""
    angles = np.outer(np.arange(64), 100.0 ** -np.linspace(0, 1, 4))
    cos, sin = (torch.from_numpy(scaled * f(angles)).float() for f in (np.cos, np.sin))
    rows = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    places, by = torch.tensor([40, 41, 50, 55, 63]), torch.tensor([0, 1, 9, 30, 40])
    moved = rotate_back(rotate(rows, places, cos, sin), by.expand(2, -1), cos, sin)
    torch.testing.assert_close(moved, rotate(rows, places - by, cos, sin), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bits", [8, 4])
def test_whole_numbers_survive_storing(bits: int) -> None:
    lowest = -(2 ** (bits - 1))
    levels = torch.arange(lowest, -lowest).float().reshape(1, -1, 4)
    assert torch.equal(unpack(pack(levels, bits), bits), levels)
    scale = torch.full((1, 1, 4), 0.5)
    assert torch.equal(unpack(store(levels * 0.5, scale, bits), bits), levels)
    assert round_levels(torch.tensor([1e9, -1e9]), bits).tolist() == [-lowest - 1, lowest]


def test_the_even_channel_lies_in_the_low_half() -> None:
    assert pack(torch.tensor([[[-8.0, 7, 0, 1]]]), 4).tolist() == [[[0xF0, 0x98]]]


def test_taking_keeps_bytes() -> None:
    rows = torch.arange(24, dtype=torch.int8).reshape(2, 4, 3)
    got = take(rows, torch.tensor([[0, 2], [1, 3]]))
    assert got.tolist() == [rows[0, [0, 2]].tolist(), rows[1, [1, 3]].tolist()]
