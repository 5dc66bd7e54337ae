"""Methods that share a budget among tiles: against plain loops, and as graphs of static grids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
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
from edgetok.methods import METHODS, find_method
from edgetok.tokens import Features

FORBIDDEN = {"NonZero", "Unique", "If", "Loop", "Scan", "Compress", "ScatterElements"}
GRIDS = [((4, 4), (1, 2)), ((4, 4), (2, 2)), ((6, 5), (3, 1))]
TILED = ["hired", "globalcom2"]


def shares(weights: list[float], k: int) -> list[int]:
    """Whole numbers in proportion, the remainders to the largest."""
    total = sum(weights)
    exact = [k * w / total for w in weights]
    counts = [int(e + 1e-9) for e in exact]
    by_rest = sorted(range(len(weights)), key=lambda p: (round(counts[p] - exact[p], 9), p))
    for p in by_rest[: k - sum(counts)]:
        counts[p] += 1
    return counts


def choose(scores: list[list[float]], counts: list[int], k: int) -> list[int]:
    """The best of each tile, then the best of all; numbered through the tiles."""
    n = len(scores[0])
    flat = [s for tile in scores for s in tile]
    kept = []
    for p, count in enumerate(counts):
        inside = range(p * n, (p + 1) * n)
        kept += sorted(inside, key=lambda i: (-flat[i], i))[:count]
    left = sorted((i for i in range(len(flat)) if i not in kept), key=lambda i: (-flat[i], i))
    return sorted(kept + left[: k - len(kept)])


def regions(grid: tuple[int, int], tiles: tuple[int, int]) -> list[int]:
    (rows, columns), (down, across) = grid, tiles
    return [
        (i // columns * down // rows) * across + i % columns * across // columns
        for i in range(rows * columns)
    ]


def hired(features: Any, k: int) -> list[int]:
    n, tiles = features.grid[0] * features.grid[1], features.tiles
    late = features.cls_attention.tolist()
    early = features.probe("early_cls_attention").tolist()[:n]
    whole = min(round(k / 2), n)
    marked = sorted(range(n), key=lambda i: (-early[i], i))[: n // 2]
    home = regions(features.grid, tiles)
    counts = shares(
        [sum(home[i] == p for i in marked) for p in range(tiles[0] * tiles[1])], k - whole
    )
    own = [late[i : i + n] for i in range(n, len(late), n)]
    thumbnail = sorted(sorted(range(n), key=lambda i: (-late[i], i))[:whole])
    return thumbnail + [n + i for i in choose(own, counts, k - whole)]


def globalcom2(features: Any, k: int) -> list[int]:
    (rows, columns), tiles = features.grid, features.tiles
    n, parts = rows * columns, 1 + tiles[0] * tiles[1]
    scores = features.probe("next_cls_logits").double()
    seen, own = scores[:n], scores[n:].reshape(-1, n)
    home, whole = regions(features.grid, tiles), k // parts
    rich = [sum(seen[i].item() for i in range(n) if home[i] == p) / 10 for p in range(parts - 1)]
    power = np.exp(np.array(rich) - max(rich))
    kept = np.minimum(parts * n / k, 1 + power / power.sum() - 1 / (parts - 1))
    counts = shares([round(share * 4096) / 4096 for share in kept.tolist()], k - whole)
    canvas = torch.nn.functional.interpolate(
        seen.reshape(1, 1, rows, columns), scale_factor=tiles, mode="bilinear", align_corners=False
    )[0, 0]
    both = []
    for p, tile in enumerate(own):
        top, left = p // tiles[1] * rows, p % tiles[1] * columns
        around = canvas[top : top + rows, left : left + columns].flatten()
        lengths = [max(float(v.norm()), 1e-6) for v in (tile, around)]
        both.append(tile / lengths[0] + around / lengths[1])
    best = max(float(torch.stack(both).abs().max()), 1e-30)
    ranks = [[round(v / best * 65536) / 65536 for v in tile.tolist()] for tile in both]
    thumbnail = sorted(range(n), key=lambda i: (-seen[i].item(), i))[:whole]

    def place(i: int) -> tuple[int, int]:
        tile, (line, column) = i // n, divmod(i % n, columns)
        return tile // tiles[1] * rows + line, tile % tiles[1] * columns + column

    return thumbnail + [n + i for i in sorted(choose(ranks, counts, k - whole), key=place)]


LOOPS: dict[str, Callable[[Any, int], list[int]]] = {"hired": hired, "globalcom2": globalcom2}
PROBES = (names.CLS_ATTENTION, names.EARLY_CLS_ATTENTION, names.NEXT_CLS_LOGITS)


def tiled(case: str, grid: tuple[int, int], tiles: tuple[int, int], width: int = 8) -> Features:
    """Features of all parts; what the case spoils lies in the thumbnail and in tiles."""
    n = grid[0] * grid[1] * (1 + tiles[0] * tiles[1])
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, width, generator=generator)
    probes = {name: torch.rand(n, generator=generator) for name in PROBES}
    probes[names.NEXT_CLS_LOGITS] = 4 * probes[names.NEXT_CLS_LOGITS] - 1
    for name, score in probes.items():
        if case == "ties":
            probes[name] = (score * 4).floor() / 4
        elif case == "duplicates":
            probes[name] = score[torch.arange(n) % 4]
        elif case in ("constant", "zeros"):
            probes[name] = torch.full_like(score, 0.3 if case == "constant" else 0.0)
        elif case == "outlier":
            score[[n // 2, 3]] *= 1e4
    return Features(x, grid, probes, tiles=tiles)


@pytest.mark.parametrize("case", ["random", "ties", "duplicates", "constant", "zeros", "outlier"])
@pytest.mark.parametrize(("grid", "tiles"), GRIDS)
@pytest.mark.parametrize("name", TILED)
def test_tiles_keep_what_the_reference_keeps(name: str, grid: Any, tiles: Any, case: str) -> None:
    features, method = tiled(case, grid, tiles), find_method(name).for_tiles(tiles)
    n, parts = features.n_tokens, features.n_parts
    for k in (parts, 2 * parts + 1, n // 3, n // 2, n - 1):
        plan = method.compress(features, k)
        assert plan.indices.tolist() == LOOPS[name](features, k), k
        assert len(set(plan.indices.tolist())) == k
        torch.testing.assert_close(plan.apply(features.x), features.x[plan.indices])


@pytest.mark.parametrize("name", TILED)
def test_a_rich_region_gets_more_places(name: str) -> None:
    """The thumbnail's lower right corner draws all attention: its tile keeps the most."""
    features = tiled("random", (4, 4), (2, 2))
    for probe in features.probes.values():
        probe[[10, 11, 14, 15]] += 20.0
    method = find_method(name).for_tiles((2, 2))
    kept = method.compress(features, 30).indices
    per_tile = [int(((kept >= 16 * p) & (kept < 16 * (p + 1))).sum()) for p in range(1, 5)]
    assert per_tile[3] == max(per_tile) > min(per_tile)


@pytest.mark.parametrize("name", TILED)
def test_all_tiles_are_the_identity(name: str) -> None:
    features = tiled("random", (4, 4), (2, 2))
    plan = find_method(name).for_tiles((2, 2)).compress(features, 80)
    assert plan.indices.tolist() == list(range(80))


@pytest.mark.parametrize(("name", "nearest"), [("hired", 2), ("globalcom2", 5)])
def test_budgets_below_one_token_a_part_are_refused(name: str, nearest: int) -> None:
    with pytest.raises(UsageError, match=f"cannot make 1 of 80 .* budget is {nearest}$"):
        find_method(name).for_tiles((2, 2)).compress(tiled("random", (4, 4), (2, 2)), 1)


def test_methods_for_one_part_refuse_tiles() -> None:
    for name in METHODS.keys() - set(TILED):
        with pytest.raises(UsageError, match=r"in one part.*hired and globalcom2 take tiles"):
            find_method(name).for_tiles((2, 2))
        assert METHODS[name].for_tiles(None) is METHODS[name]


def test_features_must_fill_their_tiles() -> None:
    with pytest.raises(ValueError, match=r"79 features do not fill .* and its \(2, 2\) tiles"):
        Features(torch.zeros(79, 8), (4, 4), tiles=(2, 2))


@pytest.mark.parametrize("opset", [OPSET, portable.OPSET], ids=["ort", "portable"])
@pytest.mark.parametrize("k", [9, 24, 61])
@pytest.mark.parametrize("tiles", [(1, 2), (2, 2)])
@pytest.mark.parametrize("name", TILED)
def test_graphs_of_static_tiles_keep_what_the_reference_keeps(
    model_dir: Path, name: str, tiles: tuple[int, int], k: int, opset: int
) -> None:
    """The compress stage as export traces it, for a model that names its tiles."""
    parts = open_model(model_dir)
    parts = replace(parts, vision=replace(parts.vision, tiles=tiles))
    method, n = find_method(name).for_tiles(parts.vision.tiles), parts.vision.full_tokens
    k = min(k, n - 1)
    stage = Compress(parts, method, k, prompt_tokens=32).eval()
    assert stage.inputs[names.FEATURES].shape == (n, 64)
    with quiet():
        model = trace(stage, stage.inputs, stage.outputs, "compress", opset)
    if opset == portable.OPSET:
        model = portable.lower(model, "compress", {})
        assert {node.domain for node in model.graph} == {""}
    assert not FORBIDDEN & {node.op_type for node in model.graph}
    session = ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for case in ("random", "ties", "duplicates", "constant", "zeros", "outlier"):
        features = tiled(case, (4, 4), tiles, width=64)
        inputs = {names.FEATURES: features.x} | {n: features.probe(n) for n in stage.needs}
        rows, kept, sizes = session.run(None, {n: t.numpy() for n, t in inputs.items()})
        assert kept.tolist() == LOOPS[name](features, k), case
        with torch.no_grad():
            wanted = parts.projector(features.x[torch.from_numpy(kept)])
        np.testing.assert_allclose(rows, wanted, atol=1e-5 * max(1.0, float(wanted.abs().max())))
        assert sizes.tolist() == [1.0] * k
