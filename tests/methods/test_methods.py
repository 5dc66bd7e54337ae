"""What holds for every method, and how the list of them behaves."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
import torch

from edgetok import names
from edgetok.errors import UsageError
from edgetok.methods import METHODS, Method, find_method
from edgetok.methods.visionzip import split

GRID = (10, 10)
N = 100
MERGERS = {
    "visionzip",
    "pool",
    "prumerge",
    "prumerge+",
    "llavolta",
    "vflowopt",
    "aim",
    "turbo",
    "vmtc",
    "visiondrop",
    "recoverable",
    "crossget",
}
OVERLAPPING = {"prumerge", "prumerge+", "recoverable"}  # a row may go into several tokens
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))


def nearest_budget(method: Method, k: int) -> int:
    return min(method.budgets(N, GRID), key=lambda budget: abs(budget - k))


@every_method
def test_all_tokens_are_the_identity(method: Method, case: str, features_of: Any) -> None:
    features = features_of(case, GRID, method.needs)
    plan = method.compress(features, N)
    assert torch.equal(plan.apply(features.rows()), features.x)
    assert plan.indices.tolist() == list(range(N))
    assert plan.sizes.tolist() == [1.0] * N
    assert method.needs_at(N, N) == ()


@every_method
@pytest.mark.parametrize("k", [2, 13, 64, 99])
def test_shapes_dtypes_and_sizes(method: Method, k: int, case: str, features_of: Any) -> None:
    k = nearest_budget(method, k)
    features = features_of(case, GRID, method.needs_at(N, k))
    plan = method.compress(features, k)
    tokens = plan.apply(features.rows())
    assert tokens.shape == (k, features.x.shape[1])
    assert tokens.dtype == torch.float32
    assert bool(tokens.isfinite().all())
    assert plan.indices.shape == plan.sizes.shape == (k,)
    assert plan.indices.dtype == torch.int64
    assert plan.sizes.dtype == torch.float32
    taking_part = int((plan.matrix().sum(0) > 0).sum())  # attention of 0 leaves a row out
    total = taking_part if method.name in MERGERS else k
    assert total in (N, N + 1) or method.name not in MERGERS - OVERLAPPING
    assert plan.sizes.sum().item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(
    "method", [m for n, m in METHODS.items() if n not in OVERLAPPING], ids=lambda m: m.name
)
def test_tokens_come_back_the_same_to_all_rows_of_a_group(method: Method, features_of: Any) -> None:
    features = features_of("random", GRID, method.needs)
    plan = method.compress(
        features, nearest_budget(method, 25)
    )  # 5 x 5 cells of 2 x 2 patches for pool
    tokens = plan.apply(features.rows())
    back = plan.unmerge(tokens)
    for row, shares in enumerate(plan.matrix().T):
        groups = shares.nonzero()[:, 0].tolist()
        expected = tokens[groups[0]] if groups else torch.zeros(tokens.shape[1])
        assert len(groups) <= 1
        torch.testing.assert_close(back[row], expected)


# The others look at the grid, at even places, draw, or decide in pairs by index.
ANY_ORDER = ["fastervlm", "vtc-cls", "fopru", "sparsity-similarity", "divprune", "todre"]
ANY_ORDER += ["vispruner", "mustdrop", "prumerge", "recoverable"]
ANY_ORDER += ["cdpruner", "mmtok", "catp", "explainability", "hired", "globalcom2", "flowcut-score"]


@pytest.mark.parametrize("name", ANY_ORDER)
def test_the_same_patches_are_kept_in_any_arrangement(name: str, features_of: Any) -> None:
    features, method = features_of("random", GRID), find_method(name)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    probes = {n: p[order] if p.shape[0] == N else p for n, p in features.probes.items()}
    moved = type(features)(features.x[order], GRID, probes, features.vision[order])
    kept = [i for i in method.compress(features, 20).indices.tolist() if i >= 0]
    again = [i for i in method.compress(moved, 20).indices.tolist() if i >= 0]
    assert sorted(order[again].tolist()) == sorted(kept)


@pytest.mark.parametrize("name", ["visionzip", "visiondrop"])
def test_without_a_cls_row_all_dominant_tokens_are_patches(name: str, features_of: Any) -> None:
    method = find_method(name).for_tower(prefix_tokens=0)
    features = features_of("random", GRID, method.needs)
    assert set(method.needs) == {names.RECEIVED_ATTENTION, names.KEYS}
    plan = method.compress(features, 64)
    dominant = 54 if name == "visionzip" else 56
    best = features.received_attention.topk(dominant).indices.tolist()
    assert plan.indices[:dominant].tolist() == sorted(best)
    assert plan.sizes.sum().item() == N


def test_visionzip_keeps_the_same_dominant_patches_in_any_arrangement(features_of: Any) -> None:
    features = features_of("random", GRID)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    probes = {
        names.CLS_ATTENTION: features.cls_attention[order],
        names.KEYS: features.keys[order],
        names.CLS_FEATURE: features.cls_feature,
    }
    moved = type(features)(features.x[order], GRID, probes)
    method = find_method("visionzip")
    kept = method.compress(features, 64).indices[1:54].tolist()
    assert sorted(order[method.compress(moved, 64).indices[1:54]].tolist()) == kept


def test_pool_of_a_mirrored_image_is_mirrored(features_of: Any) -> None:
    features = features_of("random", GRID, ())
    mirrored = type(features)(features.x.reshape(*GRID, -1).flip(1).reshape(N, -1), GRID)
    plan = find_method("pool").compress(features, 16)
    expected = plan.apply(features.x).reshape(4, 4, -1).flip(1).reshape(16, -1)
    torch.testing.assert_close(plan.apply(mirrored.x), expected)


def test_random_ignores_the_image_and_follows_the_seed(features_of: Any) -> None:
    first, second = features_of("random", GRID, ()), features_of("zeros", GRID, ())
    kept = [find_method("random", seed=5).compress(f, 30).indices.tolist() for f in (first, second)]
    assert kept[0] == kept[1]
    assert find_method("random", seed=6).compress(first, 30).indices.tolist() != kept[0]
    smaller = find_method("random", seed=5).compress(first, 10).indices.tolist()
    assert set(smaller) < set(kept[0])


@pytest.mark.parametrize(("k", "expected"), [(64, (54, 10)), (192, (162, 30)), (128, (108, 20))])
def test_visionzip_splits_as_the_paper_does(k: int, expected: tuple[int, int]) -> None:
    assert split(k) == expected


@every_method
@pytest.mark.parametrize("budget", [0, -3, 101])
def test_impossible_budgets_are_refused(method: Method, budget: int, features_of: Any) -> None:
    with pytest.raises(UsageError, match=re.escape(f"{method.name} cannot make {budget} of 100")):
        method.compress(features_of("random", GRID, method.needs), budget)


def test_the_nearest_possible_budgets_are_named() -> None:
    with pytest.raises(UsageError, match=r"nearest possible budget is 2$"):
        find_method("visionzip").check_budget(100, GRID, 1)
    by_rows = Method(**{**vars(find_method("pool")), "budgets": lambda n, grid: range(10, n, 10)})
    with pytest.raises(UsageError, match=r"nearest possible budget is 60 or 70$"):
        by_rows.check_budget(100, GRID, 64)
    by_rows.check_budget(100, GRID, 70)
    by_rows.check_budget(100, GRID, 100)  # all tokens are always possible


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if len(m.budgets(N, GRID)) < N])
def test_every_budget_that_cannot_be_met_names_the_nearest(name: str) -> None:
    method = find_method(name)
    possible = {*method.budgets(N, GRID), N}
    missing = set(range(1, N)) - possible
    assert missing
    for budget in missing:
        below, above = budget, budget
        while below > 0 and below not in possible:
            below -= 1
        while above not in possible:
            above += 1
        nearest = f"{below} or {above}" if below else str(above)
        with pytest.raises(UsageError, match=rf"cannot make {budget} of {N} .* is {nearest}$"):
            method.check_budget(N, GRID, budget)


def test_names_and_unknown_names() -> None:
    assert all(find_method(name).name == name for name in METHODS)
    with pytest.raises(UsageError, match="no method 'tomme'; edgetok has fastervlm, visionzip"):
        find_method("tomme")
    with pytest.raises(UsageError, match="seed -1 is negative"):
        find_method("random", seed=-1)


@every_method
def test_needs_are_names_of_tower_outputs(method: Method, features_of: Any) -> None:
    features = features_of("random", GRID)
    assert all(features.probe(name).shape[0] in (1, N) for name in method.tower_needs)
    assert {*method.needs} - {*method.tower_needs} in (set(), {*names.OF_PROMPT})


def test_the_list_loads_without_torch() -> None:
    script = (
        "import sys; from edgetok.methods import METHODS, find_method; "
        "print(*(m.summary for m in METHODS.values())); "
        "find_method('visionzip').check_budget(576, (24, 24), 64); "
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
