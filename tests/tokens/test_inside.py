"""The primitives of methods inside an encoder, apart from any method."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgetok import tokens
from edgetok.tokens import encoder as driver
from edgetok.tokens import schedules
from edgetok.tokens.schedules import Encoder


def rows(n: int, width: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


# --- schedules ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 9, 49, 576])
@pytest.mark.parametrize("blocks", [1, 2, 7, 23])
def test_schedules_never_rise_and_bipartite_ones_halve_at_most(n: int, blocks: int) -> None:
    encoder = Encoder(n, (1, n), 1, blocks)
    for make in (schedules.constant, schedules.geometric, schedules.staged):
        for budget in range(1, n):
            steps = make(encoder, budget)
            if steps is None:
                assert make is not schedules.staged
                continue
            before = (n, *steps[:-1])
            assert steps[-1] == budget and all(a >= b for a, b in zip(before, steps, strict=True))
            if make is not schedules.staged:
                assert all(a - b <= a // 2 for a, b in zip(before, steps, strict=True))


def test_every_budget_that_halving_can_reach_is_reached() -> None:
    for n in (16, 37, 100):
        for blocks in (1, 2, 3):
            left = n
            for _ in range(blocks):
                left -= left // 2
            encoder = Encoder(n, (1, n), 0, blocks)
            for make in (schedules.constant, schedules.geometric):
                assert [k for k in range(1, n) if make(encoder, k)] == list(range(left, n))


def test_constant_takes_the_smallest_number() -> None:
    assert schedules.constant(Encoder(576, (24, 24), 1, 23), 277) == tuple(
        max(277, 576 - 13 * block) for block in range(1, 24)
    )


# --- matchers -------------------------------------------------------------------------------------


def test_every_kth_row_is_a_target() -> None:
    sources, targets = tokens.every_kth(8, 3)
    assert sources.tolist() == [1, 2, 4, 5, 7] and targets.tolist() == [0, 3, 6]
    x = torch.eye(8)[[0, 0, 0, 3, 3, 3, 6, 6]]
    edges = tokens.set_edges(x, sources, targets)
    groups, centres = tokens.merge_sets(edges, sources, targets, 5, in_order=False)
    assert centres.tolist() == [0, 3, 6]
    assert groups.tolist() == [
        [1, 1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0, 1, 1],
    ]  # fmt: skip


@pytest.mark.parametrize("band", [1, 3])
@pytest.mark.parametrize("n", [12, 13])
def test_neighbours_merge_in_order(n: int, band: int) -> None:
    x, sizes = rows(n), torch.arange(1.0, n + 1)
    unit = np.asarray(x / x.norm(dim=1, keepdim=True), np.float64)
    like = np.round(unit @ unit.T * 4096) / 4096
    targets = range(1, n, 2)
    nearest = {
        s: max((t for t in targets if abs(s - t) <= band), key=lambda t: (like[s, t], -t))
        for s in range(0, n, 2)
    }
    order = sorted(nearest, key=lambda s: (-like[s, nearest[s]], s))
    for r in (1, 4, (n + 1) // 2):
        plan = tokens.merge_adjacent(x, r, sizes, band)
        groups: dict[int, list[int]] = {row: [row] for row in range(n) if row not in order[:r]}
        for source in order[:r]:
            groups[nearest[source]].append(source)
        assert plan.indices.tolist() == sorted(groups)
        want = [
            sum(float(sizes[i]) * x[i] for i in group) / sum(float(sizes[i]) for i in group)
            for _, group in sorted(groups.items())
        ]
        torch.testing.assert_close(plan.apply(x), torch.stack(want))
        assert plan.sizes.sum() == sizes.sum()


def test_protected_rows_never_merge() -> None:
    x = torch.ones(9, 4)  # all alike, the prefix row too
    sources, targets = tokens.alternating(9)
    edges = tokens.set_edges(x, sources, targets, prefix=1)
    groups, _ = tokens.merge_sets(edges, sources, targets, 4, in_order=True)
    assert groups[0].tolist() == [1.0] + [0.0] * 8


def test_sizes_weigh_means() -> None:
    groups = torch.tensor([[1.0, 1, 0], [0, 0, 1]])
    plan = tokens.merge_groups(groups, torch.tensor([1, 2]), torch.tensor([3.0, 1, 2]))
    torch.testing.assert_close(plan.weights, torch.tensor([[0.75, 0.25, 0], [0, 0, 1]]))
    assert plan.sizes.tolist() == [4, 2]


def test_windows_tile_what_they_can() -> None:
    windows = tokens.square_windows((4, 7), 3)
    assert windows.tolist() == [
        [0, 1, 2, 7, 8, 9, 14, 15, 16],
        [3, 4, 5, 10, 11, 12, 17, 18, 19],
    ]


# --- soft clusters, and back to all rows ----------------------------------------------------------


def test_adaptive_cells_are_adaptive_pooling() -> None:
    for grid, cells in (((6, 6), (4, 4)), ((7, 5), (3, 2)), ((4, 4), (4, 4))):
        x = rows(grid[0] * grid[1])
        image = x.T.reshape(1, 6, *grid)
        want = torch.nn.functional.adaptive_avg_pool2d(image, cells)[0].reshape(6, -1).T
        torch.testing.assert_close(tokens.adaptive_cells(grid, cells) @ x, want)


def test_dense_rows_come_back_from_clusters() -> None:
    """Expedit on features: flat regions are clustered and given back as they were."""
    grid, cells = (8, 8), (4, 4)
    corner = (torch.arange(64) // 8 // 4) * 2 + torch.arange(64) % 8 // 4
    x = torch.eye(4)[corner] * 20  # four flat quarters
    start, near = tokens.adaptive_cells(grid, cells), tokens.near_cells(grid, cells, 5)
    weights, shares = tokens.soft_kmeans(x, start, near, steps=3, temperature=0.1)
    torch.testing.assert_close(shares.sum(0), torch.ones(64))
    means = weights @ x
    torch.testing.assert_close(means, (shares @ x) / shares.sum(1, keepdim=True))
    back = tokens.reconstruct(x, means, means, nearest=1, temperature=0.1)
    torch.testing.assert_close(back, x, atol=1e-3, rtol=0)


def test_clusters_that_are_nobodys_nearest_are_means_too() -> None:
    """Their shares are below float32, the means that they make of their rows are not."""
    x = torch.tensor([[0.0], [0.0], [100.0], [100.0]])
    start = torch.tensor([[0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0.5, 0.5]])
    near = torch.tensor([[True, True, False, True], [True] * 4, [True] * 4])
    near[1, 3] = False
    weights, shares = tokens.soft_kmeans(x, start, near, steps=1, temperature=0.1)
    assert shares.sum(1).tolist() == [2, 0, 2]
    torch.testing.assert_close(weights[1], torch.tensor([1 / 3, 1 / 3, 1 / 3, 0]))
    torch.testing.assert_close(weights[::2], torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]))


def test_reconstruction_weights_have_length_one() -> None:
    x, means, y = rows(10), rows(5, seed=1), rows(5, width=3, seed=2)
    back = tokens.reconstruct(x, means, y, nearest=3, temperature=0.7)
    for row, found in zip(x, back, strict=True):
        far = [float(((row - mean) ** 2).sum()) for mean in means]
        nearest = sorted(range(5), key=lambda j: far[j])[:3]
        weights = np.exp([-0.7 * far[j] for j in nearest])
        weights /= np.sqrt((weights**2).sum())
        want = sum(w * np.asarray(y[j]) for w, j in zip(weights, nearest, strict=True))
        np.testing.assert_allclose(found, want, atol=1e-5)


def test_soft_anchors_divide_every_row_and_keep_the_sum() -> None:
    x, sizes = rows(30), torch.arange(1.0, 31)
    plan = tokens.soft_anchors(x, torch.tensor([2, 9, 20]), sizes, temperature=0.1, reach=4)
    assert plan.weights is not None
    torch.testing.assert_close(plan.weights.sum(1), torch.ones(3))
    assert bool((plan.weights.sum(0) > 0).all())  # no row is lost
    assert plan.sizes.sum().item() == pytest.approx(sizes.sum().item(), rel=1e-6)


# --- the driver -----------------------------------------------------------------------------------


class Halving:
    """Keeps every second patch behind each block; the running score counts the blocks."""

    place: tokens.Place = "after block"
    proportional = False

    @staticmethod
    def reduce(look: tokens.Look, keep: int) -> tokens.Plan:
        assert look.running is not None
        assert look.running.tolist() == [look.block + 1.0] * look.patches.shape[0]
        plan = tokens.Plan.gather(torch.arange(0, 2 * keep, 2), look.patches.shape[0])
        return tokens.behind_prefix(plan, look.sizes, look.prefix)

    @staticmethod
    def observe(look: tokens.Look) -> torch.Tensor:
        before = torch.zeros(look.patches.shape[0]) if look.running is None else look.running
        return before + 1


class Plain:
    """A block that adds a tenth of the mean of all rows, and then doubles."""

    def attend(self, x: torch.Tensor, mix: driver.Mix) -> torch.Tensor:
        heads = x.unsqueeze(0)
        return 0.1 * mix(heads, heads, heads, 0.0)

    def feed(self, x: torch.Tensor) -> torch.Tensor:
        return x


def uniform(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, _: float, bias: object
) -> torch.Tensor:
    assert bias is None
    return value[0].mean(0, keepdim=True).expand(query.shape[1], -1)


def test_driver_carries_indices_sizes_and_scores() -> None:
    x = rows(9)
    made = driver.reduce_inside(
        [Plain(), Plain()], x, Halving(), Encoder(8, (2, 4), 1, 2), (4, 2), uniform
    )
    assert made.indices.tolist() == [-1, 0, 4]
    assert made.sizes.tolist() == [1, 1, 1]
    first = 2 * (x + 0.1 * x.mean(0))
    first = first[[0, 1, 3, 5, 7]]
    want = 2 * (first + 0.1 * first.mean(0))
    torch.testing.assert_close(made.x, want[[0, 1, 3]])
