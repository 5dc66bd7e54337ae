"""Frames and pictures of one prompt, against loops, exhaustive search and Pillow."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgetok import names, tokens
from edgetok.methods import find_method
from edgetok.tokens import Features, Plan


def all_cuts(frames: int) -> list[list[int]]:
    """First frames of segments, for every way to cut."""
    return [
        [0, *(f for f in range(1, frames) if chosen >> (f - 1) & 1)]
        for chosen in range(1 << (frames - 1))
    ]


def worth(cut: list[int], still: np.ndarray) -> int:
    ends = [*cut[1:], len(still) + 1]
    return sum(
        (end - start - 1) * int(still[start : end - 1].all(0).sum())
        for start, end in zip(cut, ends, strict=True)
    )


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 7), st.integers(1, 5), st.integers(0, 2**32 - 1), st.floats(0.3, 0.95))
def test_segments_are_the_best_of_all_cuts(
    frames: int, patches: int, seed: int, share: float
) -> None:
    still = np.random.default_rng(seed).random((frames - 1, patches)) < share
    first = tokens.cut_segments(torch.from_numpy(still)).tolist()
    found = sorted({int(value) for value in first})
    assert all(first[f] == max(s for s in found if s <= f) for f in range(frames))
    best = max(worth(cut, still) for cut in all_cuts(frames))
    assert worth(found, still) == best
    # Of equally good ones, the last segment is the shortest, and so on from the end.
    tied = [cut for cut in all_cuts(frames) if worth(cut, still) == best]
    assert found == max(tied, key=lambda cut: cut[::-1])


def test_what_is_static_is_averaged_over_its_segment() -> None:
    """Frames 0 to 2 are one segment, in which place 1 stands still; frame 3 is new."""
    still = torch.tensor([[False, True], [True, True], [False, False]])
    segments = tokens.find_static(still, torch.tensor([0.0, 0.0, 0.0, 3.0]))
    assert segments.static.tolist() == [[False, True], [False, False], [False, False], [False] * 2]
    assert segments.dynamic.tolist() == [[True, False], [True, False], [True, False], [True, True]]
    x = torch.arange(8.0).unsqueeze(1)
    plan = segments.merge(torch.tensor([0, 1, 3, 7]))
    assert plan.apply(x).flatten().tolist() == [0.0, (1 + 3 + 5) / 3, 3.0, 7.0]
    scores = torch.tensor([[0.0, 3.0], [0.0, 6.0], [0.0, 9.0], [1.0, 2.0]])
    assert segments.average(scores)[0].tolist() == [0.0, 6.0]


@given(st.lists(st.integers(0, 3), min_size=6, max_size=24), st.data())
@settings(deadline=None)
def test_each_kind_of_each_frame_gives_its_best(values: list[int], data: st.DataObject) -> None:
    n = data.draw(st.integers(2, len(values) // 2))
    frames = len(values) // n
    scores = torch.tensor(values[: frames * n], dtype=torch.float32).reshape(frames, n)
    kinds = torch.tensor([[(f + p) % 2 for p in range(n)] for f in range(frames)])
    wanted = data.draw(
        st.lists(st.integers(0, n), min_size=2 * frames, max_size=2 * frames), label="counts"
    )
    kept = []
    for frame in range(frames):
        for kind in (0, 1):
            mine = [p for p in range(n) if kinds[frame, p] == kind]
            mine.sort(key=lambda p: (-float(scores[frame, p]), p))
            kept += [frame * n + p for p in mine[: wanted[2 * frame + kind]]]
    k = data.draw(st.integers(max(1, len(kept)), frames * n), label="k")
    rest = [i for i in range(frames * n) if i not in kept]
    rest.sort(key=lambda i: (-float(scores.flatten()[i]), i))
    counts = torch.tensor(wanted).reshape(frames, 2).gather(1, kinds)
    found = tokens.frame_topk(scores, kinds, counts, k)
    assert found.tolist() == sorted(kept + rest[: k - len(kept)])


def resample_by_loop(frame: np.ndarray, q: int) -> list[np.ndarray]:
    """q tokens [D] of a frame [rows, columns, D], one after another."""
    rows, columns, _ = frame.shape
    bands = min(q, max(1, math.isqrt(q * rows // columns)))
    made = []
    for band in range(bands):
        count = q * (band + 1) // bands - q * band // bands
        for place in range(count):
            y = min(max((band + 0.5) * rows / bands - 0.5, 0), rows - 1)
            x = min(max((place + 0.5) * columns / count - 0.5, 0), columns - 1)
            top, left = int(y), int(x)
            low, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            upper = frame[top, left] * (1 - (x - left)) + frame[top, right] * (x - left)
            lower = frame[low, left] * (1 - (x - left)) + frame[low, right] * (x - left)
            made.append(upper * (1 - (y - top)) + lower * (y - top))
    return made


@pytest.mark.parametrize("grid", [(4, 4), (3, 6), (5, 2), (1, 4)])
@pytest.mark.parametrize("counts", [[7, 0, 9], [16, 5, 1], [0, 0, 3], [40, 2, 12]])
def test_frames_are_resized_to_their_shares(grid: tuple[int, int], counts: list[int]) -> None:
    x = torch.randn(3 * grid[0] * grid[1], 4, generator=torch.Generator().manual_seed(1))
    plan = tokens.resample_frames(torch.tensor(counts, dtype=torch.float32), grid, sum(counts))
    frames = x.double().numpy().reshape(3, *grid, 4)
    want = [
        row for f, q in enumerate(counts) for row in (resample_by_loop(frames[f], q) if q else [])
    ]
    np.testing.assert_allclose(plan.apply(x).numpy(), np.array(want), atol=1e-5)
    torch.testing.assert_close(plan.matrix().sum(1), torch.ones(sum(counts)))
    at = 0
    for frame, q in enumerate(counts):
        inside = plan.indices[at : at + q] // (grid[0] * grid[1])
        assert inside.tolist() == [frame] * q
        at += q


def test_a_share_that_is_a_square_is_what_pillow_makes_of_a_larger_picture() -> None:
    """6 x 6 from 4 x 4: bilinear enlarging, corners not aligned."""
    frame = torch.rand(16, generator=torch.Generator().manual_seed(0))
    plan = tokens.resample_frames(torch.tensor([36.0]), (4, 4), 36)
    picture = Image.fromarray(frame.reshape(4, 4).numpy(), "F")
    want = np.asarray(picture.resize((6, 6), Image.Resampling.BILINEAR)).flatten()
    np.testing.assert_allclose(plan.apply(frame[:, None])[:, 0].numpy(), want, atol=1e-6)


def test_a_share_as_large_as_the_frame_is_the_frame() -> None:
    x = torch.randn(2 * 16, 3)
    plan = tokens.resample_frames(torch.tensor([16.0, 16.0]), (4, 4), 32)
    torch.testing.assert_close(plan.apply(x), x)
    assert plan.indices.tolist() == list(range(32))


@pytest.mark.parametrize("budget", [7, 12, 20, 33])
@pytest.mark.parametrize("name", ["visionzip", "divprune", "fastervlm", "prumerge", "pool"])
def test_equal_shares_are_those_of_each_picture_alone(name: str, budget: int) -> None:
    """Rows, indices and sizes, and what comes back of them, picture by picture."""
    method, pictures = find_method(name), 3
    generator = torch.Generator().manual_seed(budget)
    alone = []
    for _ in range(pictures):
        probes = {
            names.CLS_ATTENTION: torch.rand(16, generator=generator),
            names.NEXT_WIDE_ATTENTION: torch.rand(16, generator=generator),
            names.KEYS: torch.randn(16, 4, generator=generator),
            names.NEXT_KEYS: torch.randn(16, 6, generator=generator),
            names.CLS_FEATURE: torch.randn(1, 6, generator=generator),
        }
        probes = {need: probes[need] for need in method.needs}
        alone.append(Features(torch.randn(16, 6, generator=generator), (4, 4), probes))
    probes = {n: torch.cat([one.probes[n] for one in alone]) for n in alone[0].probes}
    together = Features(torch.cat([one.x for one in alone]), (4, 4), probes, pictures=pictures)
    plan = method.for_pictures(pictures).compress(together, budget)
    counts = [budget // 3 + (p < budget % 3) for p in range(3)]
    plans = [method.compress(one, count) for one, count in zip(alone, counts, strict=True)]
    made = torch.cat([p.apply(one.rows()) for p, one in zip(plans, alone, strict=True)])
    torch.testing.assert_close(plan.apply(together.rows()), made)
    torch.testing.assert_close(plan.sizes, torch.cat([p.sizes for p in plans]))
    indices = [-1 if i < 0 else i + 16 * p for p, q in enumerate(plans) for i in q.indices.tolist()]
    assert plan.indices.tolist() == indices


def test_plans_of_all_tokens_are_joined_with_others() -> None:
    joined = tokens.join_plans([Plan.identity(2), Plan.mix(torch.tensor([[0.5, 0.5]]))], 2)
    assert joined.apply(torch.arange(4.0)[:, None]).flatten().tolist() == [0.0, 1.0, 2.5]
    assert not joined.is_identity
    assert joined.indices.tolist() == [0, 1, -1]


@pytest.mark.parametrize(("k", "above"), [(2, 3), (49, 48)])
def test_budgets_that_do_not_reach_every_picture_are_refused(k: int, above: int) -> None:
    method = find_method("fastervlm").for_pictures(3)
    with pytest.raises(Exception, match=f"nearest possible budget is {above}"):
        method.check_budget(48, (4, 4), k)
    assert len(method.budgets(48, (4, 4))) == 46


def test_features_must_fill_their_pictures() -> None:
    with pytest.raises(ValueError, match=r"33 features do not fill .* in 2 pictures"):
        Features(torch.zeros(33, 8), (4, 4), pictures=2)
