"""Methods that share a budget among frames: loops in NumPy, and their graphs in both flavours."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from edgetok import names
from edgetok.errors import UsageError
from edgetok.export.lowering import portable
from edgetok.export.lowering.trace import OPSET, quiet, trace
from edgetok.export.stages.tower import Compress
from edgetok.families import open_model
from edgetok.methods import FRAME_METHODS, METHODS, TOWER_METHODS, find_method
from edgetok.tokens import Features

FRAMES, GRID, WIDTH = 4, (4, 4), 64
N = GRID[0] * GRID[1]
CASES = ("random", "film", "still", "one new frame", "zeros")
BUDGETS = (1, 6, 23, 40, 63)
FORBIDDEN = {"NonZero", "Unique", "If", "Loop", "Scan", "Compress", "ScatterElements"}


def filmed(case: str, frames: int = FRAMES, width: int = WIDTH) -> Features:
    """Frames of noise, or such that stand still here and there."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(frames, N, width, generator=generator)
    if case == "film":  # a few places change from frame to frame
        for frame in range(1, frames):
            same = torch.rand(N, generator=generator) < 0.6
            near = x[frame - 1] + 0.1 * x[frame]
            x[frame] = torch.where(same.unsqueeze(1), near, x[frame])
    elif case in ("still", "one new frame"):
        x[1:] = x[0]
        if case == "one new frame":
            x[2] = torch.randn(N, width, generator=generator)
    elif case == "zeros":
        x = torch.zeros_like(x)
    text = torch.randn(5, width, generator=generator)
    probes = {
        names.CLS_ATTENTION: torch.rand(frames * N, generator=generator),
        names.RECEIVED_ATTENTION: torch.rand(frames * N, generator=generator),
        names.PICTURE_WEIGHTS: torch.arange(frames).float() % 3 + 0.5,
        names.TEXT_EMBEDS: text,
        names.TEXT_MASK: torch.tensor([0.0, 1, 1, 0, 0]),
    }
    return Features(x.reshape(-1, width), GRID, probes, pictures=frames)


def share(weights: list[Fraction], k: int) -> list[int]:
    """Largest remainders, ties to the first."""
    shares = [weight * k / sum(weights) for weight in weights]
    counts = [math.floor(s) for s in shares]
    order = sorted(range(len(shares)), key=lambda g: (-(shares[g] - counts[g]), g))
    for g in order[: k - sum(counts)]:
        counts[g] += 1
    return counts


def cosines(features: Features) -> np.ndarray:
    """[P - 1, N], of each patch with that before it, to 1/4096."""
    x = features.x.double().numpy().reshape(features.pictures, N, -1)
    found = np.zeros((features.pictures - 1, N))
    for frame in range(1, features.pictures):
        for p in range(N):
            a, b = x[frame, p], x[frame - 1, p]
            norm = np.linalg.norm(a) * np.linalg.norm(b)
            found[frame - 1, p] = round(4096 * float(a @ b / norm if norm else 0)) / 4096
    return found


def fill(chosen: list[int], scores: np.ndarray, k: int) -> list[int]:
    rest = sorted(set(range(len(scores))) - set(chosen), key=lambda i: (-scores[i], i))
    return sorted(chosen + rest[: k - len(chosen)])


def kffocus(features: Features, k: int) -> np.ndarray:
    """Weights [K, P * N]."""
    scores = features.cls_attention.numpy()
    new = [Fraction(N)]
    for row in cosines(features):
        new.append(max(Fraction(0), sum((1 - Fraction(float(c)) for c in row), Fraction(0))))
    chosen = []
    for frame, count in enumerate(share(new, k)):
        mine = sorted(range(frame * N, frame * N + N), key=lambda i: (-scores[i], i))
        chosen += mine[:count]
    return np.eye(len(scores))[fill(chosen, scores, k)]


def best_cut(still: np.ndarray) -> list[range]:
    """Segments of most worth, by recursion over the last one; the shortest last one if equal."""

    def search(end: int) -> tuple[int, list[range]]:
        if end == 0:
            return 0, []
        found = []
        for start in range(end - 1, -1, -1):
            value, cut = search(start)
            static = still[start : end - 1].all(0).sum() if end - start > 1 else 0
            found.append((value + (end - start - 1) * int(static), [*cut, range(start, end)]))
        return max(found, key=lambda pair: pair[0])

    return search(len(still) + 1)[1]


def holitom(features: Features, k: int) -> np.ndarray:
    scores = features.received_attention.double().numpy()
    tau = 0.65 if k <= features.n_tokens / 8 else 0.8
    still = cosines(features) > tau
    groups, rows, ranked = [], {}, scores.copy()
    dynamic: dict[int, list[int]] = {f: [] for f in range(features.pictures)}
    static: dict[int, list[int]] = {f: [] for f in range(features.pictures)}
    for segment in best_cut(still):
        for p in range(N):
            stands = len(segment) > 1 and all(still[f - 1, p] for f in segment[1:])
            if stands:
                first = segment[0] * N + p
                static[segment[0]].append(first)
                rows[first] = [f * N + p for f in segment]
                ranked[first] = scores[rows[first]].mean()
            else:
                for f in segment:
                    dynamic[f].append(f * N + p)
    groups = [dynamic[f] for f in dynamic] + [static[f] for f in static]
    chosen = []
    for members, count in zip(groups, share([Fraction(len(g)) for g in groups], k), strict=True):
        chosen += sorted(members, key=lambda i: (-ranked[i], i))[:count]
    kept = fill(chosen, ranked, k)
    weights = np.zeros((k, len(scores)))
    for token, index in enumerate(kept):
        of = rows.get(index, [index])
        weights[token, of] = 1 / len(of)
    return weights


def resample(frame: int, q: int) -> list[np.ndarray]:
    """Weights [P * N] of q tokens of a frame."""
    rows, columns = GRID
    bands, made = max(1, math.isqrt(q * rows // columns)), []
    for band in range(bands):
        count = q * (band + 1) // bands - q * band // bands
        for place in range(count):
            y = min(max((band + 0.5) * rows / bands - 0.5, 0), rows - 1)
            x = min(max((place + 0.5) * columns / count - 0.5, 0), columns - 1)
            weight = np.zeros((FRAMES, rows, columns))
            for r in range(rows):
                for c in range(columns):
                    weight[frame, r, c] = max(0, 1 - abs(y - r)) * max(0, 1 - abs(x - c))
            made.append(weight.flatten())
    return made


def quota(features: Features, k: int) -> np.ndarray:
    weights = [Fraction(float(w)) for w in features.probe(names.PICTURE_WEIGHTS)]
    return np.array([row for f, q in enumerate(share(weights, k)) if q for row in resample(f, q)])


def quota_text(features: Features, k: int) -> np.ndarray:
    text, mask = (part.double().numpy() for part in features.question)
    x = features.x.double().numpy()
    words = [t / np.linalg.norm(t) for t, m in zip(text, mask, strict=True) if m]
    relevance = []
    for row in x:
        norm = np.linalg.norm(row)
        relevance.append(np.mean([row @ w / norm if norm else 0 for w in words]))
    means = np.array(relevance).reshape(features.pictures, N).mean(1)
    apart = (means - means.mean()) / max(means.std(), 1e-4)
    weights = [Fraction(float(w)) for w in np.exp(apart) / np.exp(apart).sum()]
    return np.array([row for f, q in enumerate(share(weights, k)) if q for row in resample(f, q)])


LOOPS = {"kffocus": kffocus, "holitom": holitom, "quota": quota, "quota-text": quota_text}


def only(features: Features, name: str) -> Features:
    needs = FRAME_METHODS[name].needs
    return replace(features, probes={need: features.probes[need] for need in needs})


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", FRAME_METHODS)
def test_tokens_are_those_of_the_loop(name: str, case: str) -> None:
    features, method = only(filmed(case), name), find_method(name).for_pictures(FRAMES)
    for k in BUDGETS:
        plan, want = method.compress(features, k), LOOPS[name](filmed(case), k)
        np.testing.assert_allclose(plan.matrix().numpy(), want, atol=2e-6, err_msg=str(k))
        assert plan.sizes.shape == (k,)
        assert (plan.indices >= 0).all()


@pytest.mark.parametrize(
    ("name", "opset"),
    [
        pytest.param("holitom", OPSET, id="holitom"),
        pytest.param("quota", OPSET, id="quota"),
        *(
            pytest.param(name, opset, marks=pytest.mark.slow, id=f"{name}-{opset}")
            for name in FRAME_METHODS
            for opset in (OPSET, portable.OPSET)
        ),
    ],
)
def test_graphs_make_what_torch_makes(model_dir: Path, name: str, opset: int) -> None:
    """The compress stage as export traces it, of a rung that all kinds of films go through."""
    parts = open_model(model_dir, pictures=FRAMES)
    method = find_method(name).for_pictures(FRAMES)
    stage = Compress(parts, method, 23, prompt_tokens=32).eval()
    shapes = {names.FEATURES: (FRAMES * N, WIDTH)}
    shapes |= {n: v.shape for n, v in filmed("random").probes.items()}
    assert all(shapes[name] == example.shape for name, example in stage.inputs.items())
    with quiet():
        model = trace(stage, stage.inputs, stage.outputs, "compress", opset)
    if opset == portable.OPSET:
        model = portable.lower(model, "compress", {})
        assert {node.domain for node in model.graph} == {""}
    assert not FORBIDDEN & {node.op_type for node in model.graph}
    proto = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(proto, providers=["CPUExecutionProvider"])
    for case in CASES:
        features = filmed(case)
        inputs = {names.FEATURES: features.x} | {n: features.probe(n) for n in stage.needs}
        made = session.run(None, {n: t.numpy() for n, t in inputs.items()})
        with torch.no_grad():
            want = stage(*inputs.values())
        np.testing.assert_array_equal(made[1], want[1].numpy(), err_msg=case)
        np.testing.assert_allclose(made[0], want[0].numpy(), atol=1e-5, err_msg=case)
        np.testing.assert_allclose(made[2], want[2].numpy(), rtol=1e-4, atol=1e-5, err_msg=case)


def test_a_frame_that_is_new_gets_most() -> None:
    """KFFocus gives frames that repeat nothing; HoliTom makes one of what stands still."""
    features = filmed("one new frame")
    kept = find_method("kffocus").for_pictures(FRAMES).compress(features, 12).indices // N
    assert kept.bincount(minlength=FRAMES).tolist() == [4, 0, 4, 4]
    plan = find_method("holitom").for_pictures(FRAMES).compress(filmed("still"), 16)
    assert plan.indices.tolist() == list(range(16))
    torch.testing.assert_close(plan.apply(filmed("still").x), filmed("still").x[:16])


def test_a_weight_of_zero_leaves_a_frame_out() -> None:
    features = filmed("random")
    features.probes[names.PICTURE_WEIGHTS][:] = torch.tensor([0.0, 1, 0, 2])  # type: ignore[index]
    kept = find_method("quota").for_pictures(FRAMES).compress(features, 12).indices // N
    assert kept.bincount(minlength=FRAMES).tolist() == [0, 4, 0, 8]


def test_who_knows_how_many_pictures() -> None:
    for name in FRAME_METHODS:
        assert find_method(name).for_pictures(2) is FRAME_METHODS[name]
        with pytest.raises(UsageError, match="shares a budget among several pictures"):
            find_method(name).for_pictures(1)
    for name in METHODS:
        assert METHODS[name].for_pictures(1) is METHODS[name]
    for name in TOWER_METHODS:
        with pytest.raises(UsageError, match="one picture at a time"):
            find_method(name).for_pictures(2)


@pytest.fixture(scope="module")
def model_dir(load_helper: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny: ModuleType = load_helper("tiny_llava")
    path: Path = tiny.write_tiny_llava(tmp_path_factory.mktemp("tiny") / "model")
    return path
