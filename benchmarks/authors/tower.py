"""Methods inside the tower, one block at a time."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import torch
from frame import (
    GRID,
    CoarseRanks,
    Row,
    Source,
    equal_rows,
    overlap,
    random_rows,
    rounded,
)
from torch import Tensor

from edgetok.methods import find_method
from edgetok.methods.inside import Inside
from edgetok.tokens import Look
from edgetok.tokens.schedules import Encoder

SIDE = 14
N = SIDE * SIDE
PITOME = ("bsm", "pitome", "pitome_vision", "merge_mean")


def inside_of(name: str) -> Inside:
    found: Any = find_method(name).inside
    return cast(Inside, found)


def see(
    x: Tensor, prefix: int, sizes: Tensor | None = None, block: int = 0, depth: int = 24
) -> Look:
    """A block whose queries, keys and values are its rows, in heads of 32."""
    heads = torch.stack(x.chunk(x.shape[1] // 32, 1))
    of = torch.ones(len(x)) if sizes is None else sizes
    encoder = Encoder(N, (SIDE, SIDE), prefix, depth - 1, depth)
    return Look(x, heads * 32**-0.5, heads, heads, of, encoder, block)


def groups_of(matrix: Tensor) -> list[tuple[int, ...]]:
    """Which rows each new row is made of."""
    return [tuple(row.nonzero()[:, 0].tolist()) for row in matrix]


def uneven(n: int, prefix: int) -> Tensor:
    sizes = torch.ones(n)
    sizes[prefix::3] = 2.0
    return sizes


def compare_tome(prefix: int, grid: bool = False) -> Any:
    def run(source: Source) -> Iterator[float]:
        code = source.take("tome/merge.py", "bipartite_soft_matching", grid=grid)
        for x in random_rows(N + prefix):
            for r in (8, N // 4, N // 2):
                look = see(x, prefix)
                merge, _ = code.bipartite_soft_matching(
                    look.mean_keys()[None], r, prefix > 0, prefix > 1
                )
                theirs = groups_of(merge(torch.eye(len(x))[None], mode="sum")[0])
                yield overlap(
                    enumerate(theirs),
                    enumerate(groups_of(inside_of("tome").reduce(look, N - r).matrix())),
                )

    return run


def compare_pitome(block: int, grid: bool = False) -> Any:
    def run(source: Source) -> Iterator[float]:
        ranks = {"torch": CoarseRanks()} if grid and block > 12 else {}
        code = source.take("algo/pitome/merge.py", *PITOME, grid=grid, **ranks)
        margin = 0.9 - 0.9 * block / 24
        for x in random_rows(N + 1):
            for keep in (0.95, 0.75, 0.6):
                merge = code.pitome_vision(
                    x[None], keep, margin, class_token=True, use_bsm=block <= 12
                )
                made = code.merge_mean(merge, x[None])[0]
                look = see(x, 1, uneven(N + 1, 1), block)
                plan = inside_of("pitome").reduce(look, len(made) - 1)
                ours = plan.apply(x)
                yield overlap(rounded(made), rounded(ours))

    return run


def compare_mctf(prefix: int) -> Any:
    def run(source: Source) -> Iterator[float]:
        code = source.take("utils/mctf.py", "bipartite_soft_matching", "merge_wavg")
        for x in random_rows(N + prefix):
            for r in (16, N // 4):
                look = see(x, prefix, uneven(N + prefix, prefix))
                size, maps = look.sizes[None, :, None], look.attention()[None]
                merge, _ = code.bipartite_soft_matching(
                    x[None], maps, size, r, prefix, tau_sim=1, tau_info=20, tau_size=40,
                    bidirection=1,
                )  # fmt: skip
                made, sizes, _ = code.merge_wavg(merge, x[None], size, maps, 1, pooling_type=1)
                plan = inside_of("mctf").reduce(look, N - r)
                ours = torch.cat([plan.sizes[:, None], plan.apply(x)], 1)
                yield overlap(rounded(torch.cat([sizes[0], made[0]], 1)), rounded(ours))

    return run


def compare_flowcut(source: Source) -> Iterator[float]:
    """Score of a block: `CLIPAttention_forward` of their model, then `compute_score`."""
    attend = source.take("flowcut/modeling_clip_flowcut.py", "CLIPAttention_forward")
    score = source.take("flowcut/utils_flowcut.py", "compute_score")
    observe: Any = inside_of("flowcut").observe
    for x in random_rows(N + 1):
        heads = x.shape[1] // 32
        layer = SimpleNamespace(
            **dict.fromkeys(("q_proj", "k_proj", "v_proj", "out_proj"), lambda rows: rows),
            **{"scale": 32**-0.5, "num_heads": heads, "head_dim": 32, "dropout": 0.0},
            training=False,
            _shape=lambda t, n, b, h=heads: t.view(b, -1, h, 32).transpose(1, 2),
        )
        _, maps, meaning, values = attend.CLIPAttention_forward(
            layer, x[None] / 4, output_attentions=True
        )
        cls = maps.mean(1)[:, 0, 1:]
        want = score.compute_score(cls, meaning[:, 1:], values[:, 1:])[0]
        found = observe(see(x / 4, 1))
        for k in (32, 64, 128):
            yield overlap(want.topk(k).indices.tolist(), found.topk(k).indices.tolist())


def compare_evit(fuse: bool) -> Any:
    def run(source: Source) -> Iterator[float]:
        code = source.take("evit.py", "Attention", "Block")
        helpers = source.take("helpers.py", "complement_idx")
        code.Block.forward.__globals__["complement_idx"] = helpers.complement_idx
        for x in random_rows(N + 1):
            rows, width = x / 4, x.shape[1]
            layer = code.Attention(width, width // 32, keep_rate=0.5)
            with torch.no_grad():
                layer.qkv.weight.copy_(torch.cat([torch.eye(width)] * 3))
                for keep in (0.7, 0.5):
                    block = SimpleNamespace(
                        attn=lambda y, _r, t, f=layer, k=keep: _still(f(y, k, t)),
                        norm1=lambda y: y,
                        norm2=lambda y: y,
                        mlp=torch.zeros_like,
                        drop_path=lambda y: y,
                        fuse_token=fuse,
                        keep_rate=keep,
                    )
                    made = code.Block.forward(block, rows[None])[0][0]
                    look = see(rows, 1)
                    plan = inside_of("evit" if fuse else "topk").reduce(look, len(made) - 1)
                    yield overlap(rounded(made), rounded(plan.apply(rows)))

    return run


def _still(found: tuple[Any, ...]) -> tuple[Any, ...]:
    """What attention says, without what it adds to the rows."""
    return (torch.zeros_like(found[0]), *found[1:])


def compare_expedit(source: Source) -> Iterator[float]:
    code = source.take(
        "segment_anything/modeling/hourglass_image_encoder.py", "TokenClusteringBlock"
    )
    for x in random_rows(N + 1):
        for side in (5, 7, 10):
            block = code.TokenClusteringBlock(side * side)
            made = block(x[1:].reshape(1, SIDE, SIDE, -1))[0].reshape(side * side, -1)
            plan = inside_of("expedit").reduce(see(x, 1), side * side)
            yield equal_rows(made, plan.apply(x)[1:])


ROWS = (
    *(
        Row(
            "evit" if fuse else "topk",
            "youweiliang/evit",
            "5ca95a7",
            "kept rows" + " and the sum of the others" * fuse,
            compare_evit(fuse),
        )
        for fuse in (True, False)
    ),
    Row(
        "expedit",
        "Expedit-LargeScale-Vision-Transformer/Expedit-SAM",
        "75a1c30",
        "clusters, with their defaults",
        compare_expedit,
    ),
    *(
        Row(
            "tome",
            "facebookresearch/ToMe",
            "af95e4b",
            f"groups in their order, prefix rows: {prefix}" + GRID * grid,
            compare_tome(prefix, grid),
        )
        for prefix in (0, 1, 2)
        for grid in (False, True)
    ),
    *(
        Row(
            "pitome",
            "hchautran/PiToMe",
            "550b5de",
            f"merged rows of clip_hf, sizes above 1, block {block}" + GRID * grid,
            compare_pitome(block, grid),
        )
        for block in (12, 13, 22)
        for grid in (False, True)
    ),
    *(
        Row(
            "mctf",
            "mlvlab/MCTF",
            "2004da0",
            f"merged rows and sizes, prefix rows: {prefix}",
            compare_mctf(prefix),
        )
        for prefix in (0, 1)
    ),
    Row("flowcut", "TungChintao/FlowCut", "a2ecd24", "best patches of a block", compare_flowcut),
)
