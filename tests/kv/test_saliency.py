"""Attention received, against loops over single rows; and what prompts weigh."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgetok.kv import POLICIES, saliency
from edgetok.kv.policy import SCORE, SEEN, TEXT

HEADS, GROUPS, WIDTH = 4, 2, 8


def count_of(rows: int) -> torch.Tensor:
    return torch.tensor(rows)


def loop(queries, asked, weights, keys, scaling):
    """One query, one head, one key at a time."""
    total = np.zeros((GROUPS, keys.shape[1]))
    for place, (row, weight) in enumerate(zip(asked, weights, strict=True)):
        for head in range(HEADS):
            group = head // (HEADS // GROUPS)
            logits = [
                scaling * float(queries[head, place] @ keys[group, j]) for j in range(row + 1)
            ]
            powers = np.exp(np.array(logits) - max(logits))
            for j in range(row + 1):
                total[group, j] += float(weight) * powers[j] / powers.sum() / (HEADS // GROUPS)
    return total


@pytest.mark.parametrize("chunk", [3, 128])
@pytest.mark.parametrize("rows", [1, 7, 16])
def test_received_attention_is_that_of_single_rows(rows: int, chunk: int, monkeypatch) -> None:
    monkeypatch.setattr(saliency, "CHUNK_ROWS", chunk)
    generator = torch.Generator().manual_seed(rows)
    queries = torch.randn(HEADS, rows, WIDTH, generator=generator)
    keys = torch.randn(GROUPS, rows, WIDTH, generator=generator)
    asked, weights = torch.arange(rows), torch.rand(rows, generator=generator)
    got = saliency.received(queries, asked, weights, keys, 0.3)
    want = loop(queries, asked.tolist(), weights, keys, 0.3)
    np.testing.assert_allclose(got.numpy(), want, atol=1e-5)


@pytest.mark.parametrize("name", [n for n, p in POLICIES.items() if p.asks is not None])
@pytest.mark.parametrize("rows", [5, 33, 64])
def test_scores_do_not_depend_on_padding(name: str, rows: int) -> None:
    policy, scores = POLICIES[name], []
    generator = torch.Generator().manual_seed(rows)
    queries, keys = (torch.randn(h, 80, WIDTH, generator=generator) for h in (HEADS, GROUPS))
    for padded in (64, 80):
        asked, weights = policy.asks(padded, count_of(rows))
        behind = torch.arange(padded)[None, :, None] >= rows
        all_keys = torch.where(behind, 1e3, keys[:, :padded])  # what attends to padding shows
        received = saliency.received(queries[:, asked], asked, weights, all_keys, 0.3)
        seen = saliency.visible(asked, weights, padded)
        row_state = saliency.first_state(
            policy, received, seen, torch.zeros(padded), count_of(rows)
        )
        scores.append(row_state[:, :, :rows])
        assert not row_state[policy.row_state.index(SCORE), :, rows:].any()
    torch.testing.assert_close(*scores, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("rows", [1, 19, 20, 21, 64])
def test_probes_are_the_last_twentieth_and_every_twentieth(rows: int) -> None:
    asked, weights = saliency.ask_probes(64, count_of(rows), 20)
    probes = sorted(asked[weights > 0].tolist())
    last = -(-rows // 20)
    want = sorted({*range(rows - last, rows), *range(0, rows, 20)})
    assert probes == want  # each once
    seen = saliency.visible(asked, weights, 64)[:rows]
    assert seen.tolist() == [sum(p >= row for p in want) for row in range(rows)]


def test_a_step_back_weighs_alpha_times_as_much() -> None:
    _, weights = saliency.ask_decaying(8, count_of(5), 0.5)
    assert weights.tolist() == [0.0625, 0.125, 0.25, 0.5, 1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("rows", [2, 4, 9])
def test_the_window_is_the_last_rows(rows: int) -> None:
    asked, weights = saliency.ask_last(12, count_of(rows), 4)
    assert asked[weights > 0].tolist() == list(range(max(0, rows - 4), rows))


def test_votes_are_averaged_before_the_window_and_highest_inside() -> None:
    scores = torch.tensor([[5.0, 0, 0, 10, 0, 7, 7, 3]])
    got = saliency.smoothed(scores, count_of(7), 2, 5)
    # Five places divide what they hold, the window [5, 7) left out, beyond both ends nothing.
    assert got[0].tolist() == pytest.approx([1.0, 3.0, 3.0, 2.0, 2.0, 3.0, 3.0, 0.0])


def test_a_step_adds_to_true_rows_only() -> None:
    stale = torch.full((2, 1, 6), 9.0)  # left over from rows that went
    attention = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.0, 0.0]])
    policy = POLICIES["zipcache-salience"]
    score, seen = saliency.next_state(policy, stale, attention, torch.tensor(3))
    assert score[0].tolist() == pytest.approx([9.1, 9.2, 9.3, 0.4, 0.0, 0.0])
    assert seen[0].tolist() == [10, 10, 10, 1, 0, 0]
    assert policy.row_state == (SCORE, SEEN)


def test_a_new_row_is_text() -> None:
    policy = POLICIES["visual"]
    row_state = torch.tensor([[[1.0, 2, 5]], [[1.0, 0, 1]]])
    after = saliency.next_state(policy, row_state, torch.zeros(1, 3), torch.tensor(2))
    assert after[policy.row_state.index(TEXT), 0].tolist() == [1, 0, 1]
