"""Cuts against what the authors' own functions gave: numbers that were made outside this project.

`benchmarks/authors/prefill.py` says how they are called, and compares with them on more.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from edgetok.export.reference.prompt_reduced import Maps
from edgetok.methods import METHODS
from edgetok.prefill import PREFILL_METHODS
from edgetok.prefill.look import Look
from edgetok.tokens import Features, Plan

START, N, AFTER = 5, 100, 7
HEADS, HEAD_WIDTH, WIDTH = 16, 4, 6
ROWS = START + N + AFTER


def draw(generator: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(generator.standard_normal(shape).astype(np.float32))


@pytest.fixture(scope="module")
def look() -> Look:
    generator = np.random.default_rng(17)
    maps = draw(generator, HEADS, ROWS, ROWS)
    maps = maps.masked_fill(torch.ones(ROWS, ROWS).triu(1).bool(), -torch.inf).softmax(-1)
    x, entered = draw(generator, ROWS, WIDTH), 0.3 * draw(generator, ROWS, WIDTH)
    keys = draw(generator, HEADS, ROWS, HEAD_WIDTH)
    angle = torch.arange(ROWS)[:, None] * torch.tensor([1.0, 0.1, 1.0, 0.1])
    ones = angle.cos() + torch.tensor([-1.0, -1.0, 1.0, 1.0]) * angle.sin()
    weight, end = torch.linspace(0.5, 1.5, WIDTH), START + N
    return Look(
        visual=x[START:end],
        text=x[end:],
        is_text=torch.ones(AFTER),
        visual_input=entered[START:end],
        text_input=entered[end:],
        previous=Maps(maps, keys, START, N, ones),
        next=None,
        gates=None,
        layer=16,
        norm=lambda rows: rows / rows.square().mean(-1, keepdim=True).sqrt() * weight,
    )


def cut(name: str, look: Look, keep: int) -> Plan:
    found = PREFILL_METHODS[name].cut
    assert found is not None
    return found(look, keep)


def test_sparsevlm_recycles(look: Look) -> None:
    """Gumpest/SparseVLMs at 26a5f48, version 1_0, RETAIN_TOKN 64, behind layer 15."""
    kept = [12, 22, 23, 26, 36, 43, 45, 46, 53, 55, 59, 60, 69, 74, 76, 86, 88]
    clusters = [
        [0.3607, -0.2376, -0.2606, -0.2125, -0.3223, -0.3983],
        [-0.6927, 0.303, -0.4042, -1.3153, 1.0899, -0.1072],
        [-0.7397, 0.844, 0.0792, 0.5349, -0.0331, 0.0132],
    ]
    plan = cut("sparsevlm", look, 20)
    assert plan.indices[:17].tolist() == kept
    rows = plan.apply(look.visual)
    torch.testing.assert_close(rows[:17], look.visual[kept])
    np.testing.assert_allclose(rows[17:], clusters, atol=1e-4)


def test_sparsevlm_plus_chooses_heads_and_divides(look: Look) -> None:
    """The same, version 2_0."""
    kept = [1, 2, 3, 4, 25, 26, 27, 33, 39, 42, 43, 44, 45, 53, 59, 60, 61, 90, 91, 98]
    assert cut("sparsevlm-v2", look, 20).indices.tolist() == kept


def test_dart_keeps_what_repeats_pivots_least(look: Look) -> None:
    """`get_retained_image_token` of DART, its pivots sorted, `max_num_trunction` 16."""
    kept = [1, 10, 14, 22, 24, 26, 27, 29, 32, 33, 34, 39, 45, 51, 52, 60, 61, 78, 85, 95]
    assert cut("dart", look, 20).indices.tolist() == kept


def test_dart_in_front_of_the_decoder(look: Look) -> None:
    """The same function on rows as their own keys, without pivots of the text."""
    kept = [0, 1, 4, 14, 25, 26, 29, 36, 38, 41, 45, 46, 47, 59, 61, 63, 65, 77, 82, 89]
    features = Features(look.visual, (10, 10), {}, look.visual)
    assert METHODS["dart"].compress(features, 20).indices.tolist() == kept


def test_mustdrop_keeps_what_passes_a_threshold(look: Look) -> None:
    """`dual_attention_filter` of liuting20/MustDrop at 909afa5, both thresholds 0.02."""
    assert cut("mustdrop", look, 2).indices.tolist() == [51, 76]


def test_aim_ranks_by_pagerank(look: Look) -> None:
    """`get_importance` of LaVi-Lab/AIM at edc24e9, on the logits of these maps."""
    kept = [0, 1, 2, 3, 4, 5, 6, 8, 10, 14, 17, 27]
    assert cut("aim", look, 12).indices.tolist() == kept
