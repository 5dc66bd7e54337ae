"""Caches against what the programs of their authors gave, run outside this repository."""

from __future__ import annotations

import pytest
import torch

from edgetok.export.caches.zipcache.graphs import tier_of
from edgetok.kv import POLICIES, plan_eviction
from edgetok.kv.select import choose, rank
from edgetok.kv.stores import zipcache


@pytest.mark.parametrize(
    ("prompt_rows", "kept"),
    [
        (100, [160] * 8),  # the program keeps all 100; there is room for each
        (200, [160] * 8),
        (260, [260, 232, 204, 176, 148, 120, 92, 64]),
        (300, [282, 248, 214, 180, 146, 112, 78, 44]),
        (4096, [282, 248, 214, 180, 146, 112, 78, 44]),
    ],
)
def test_pyramidkv_gives_each_layer_the_rows_of_the_program(
    prompt_rows: int, kept: list[int]
) -> None:
    """Zefan-Cai/PyramidKV at 5d4e2e1, 160 rows on average, window 32, 8 layers."""
    plan = plan_eviction(POLICIES["pyramidkv"], 160, 8, prompt_rows=prompt_rows)
    assert list(plan.slots) == kept


def test_h2o_keeps_heavy_hitters_where_first_rows_would_push_them_out() -> None:
    """FMInference/H2O at ac75c2a, 7 of 12 rows; of the five rows with 1 any two may stay."""
    score = torch.tensor([[[1.0, 1, 1, 1, 1, 2.5, 2, 0.5, 0.5, 0.5, 0.5, 0.5]]])
    policy = POLICIES["h2o"]
    plan = plan_eviction(policy, 8, 1)
    assert plan.keep == (7,)
    ranks = rank(policy, score)
    kept = choose(ranks, torch.tensor(12), 7, policy.sinks, plan.recent(0))[0].tolist()
    assert {5, 6, 9, 10, 11} < set(kept)
    assert set(kept) - {5, 6, 9, 10, 11} < {0, 1, 2, 3, 4}


def test_zipcache_divides_by_one_number_for_both_tiers() -> None:
    """ThisisBillhe/ZipCache at b6932b9: three salient rows of five, one head."""
    values = torch.tensor(
        [[4.0, 1, 1, 1], [1, 2, 3, 4], [2, 2, 1, 1], [16, 1, 2, 1], [1, 3, 1, 9]]
    ).reshape(1, 1, 5, 4)
    salience = torch.tensor([[[5.0, 4, 3, 2, 1]]])
    slots = {"high": 3, "low": 2}
    held = zipcache.pack_prompt(values, values, salience, torch.tensor([5]), slots)
    torch.testing.assert_close(
        held["divisor"].flatten(), torch.tensor([4, 3**0.5, 3**0.5, 3]), atol=1e-4, rtol=0
    )
    _, low = zipcache.read(tier_of(held, "low"), zipcache.BITS["low"])
    want = torch.tensor([16, 0.57735, 2.6943, 1])
    torch.testing.assert_close(low[0, 0, 0], want, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("rows", "salient"), [(99, 60), (100, 60), (576, 346), (1, 1)])
def test_zipcache_counts_as_the_program_does(rows: int, salient: int) -> None:
    """Its `int(0.4 * rows)` are not salient."""
    assert rows - int(0.4 * rows) == salient == zipcache.count_salient(rows)
