"""Methods inside the tower that match on the complete graph, or merge by windows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from frame import (
    GRID,
    GRID_STEPS,
    RANK_STEPS,
    Row,
    Source,
    on_grid,
    overlap,
    random_rows,
    rounded,
)
from torch import Tensor
from tower import N, inside_of, see, uneven

from edgetok.tokens.schedules import Encoder


def compare_crossget(grid: bool) -> Any:
    """Their reduction, whose last row, the cross token, is the CLS row here."""

    def run(source: Source) -> Iterator[float]:
        code = source.take(
            "CLIP/clip/reducer.py", "TokenReduction", grid=grid,
            on_grid=lambda x: on_grid(x, RANK_STEPS if x.shape[-1] == 1 else GRID_STEPS),
        )  # fmt: skip
        for x in random_rows(N + 1):
            rows, sizes = torch.cat([x, x[:1]]), uneven(N + 1, 1)
            for r in (8, N // 4):
                reduction = code.TokenReduction(batch_first=True).eval()
                of = torch.cat([sizes, torch.ones(1)]).reshape(1, -1, 1)
                reduction.token_status = {"r": r, "token_size": of}
                made, _ = reduction(rows[None], (rows[None], rows[None]))
                plan = inside_of("crossget-b").reduce(see(x, 1, sizes), N - r)
                yield overlap(rounded(made[0, :-1]), rounded(plan.apply(x)))

    return run


class OnCpu:
    """torch, but a tensor that is sent to a GPU stays."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def tensor(value: float) -> Any:
        return SimpleNamespace(cuda=lambda _device: torch.tensor(value))


def rearrange(x: Tensor, pattern: str, **sides: int) -> Tensor:
    """The three patterns that MustDrop asks of einops."""
    if pattern.startswith("b (h w)"):
        return x.mT.reshape(*x.mT.shape[:2], sides["h"], -1)
    if pattern.startswith("b c (gh"):
        batch, width, rows, columns = x.shape
        high, wide = rows // sides["gh"], columns // sides["gw"]
        cut = x.reshape(batch, width, sides["gh"], high, sides["gw"], wide)
        return cut.permute(0, 2, 4, 1, 3, 5)
    return x.flatten(1)


def compare_windows(source: Source) -> Iterator[float]:
    code = source.take(
        "llava/model/multimodal_encoder/local_merge.py", "conditional_pooling", "merge_wavg",
        torch=OnCpu(), rearrange=rearrange,
    )  # fmt: skip
    for x in random_rows(145):
        smooth = x.clone()
        smooth[1:] += 4 * x[1:].reshape(4, 3, 4, 3, -1).mean((1, 3), keepdim=True).expand(
            4, 3, 4, 3, -1).reshape(144, -1)  # fmt: skip
        for threshold in (0.55, 0.65, 0.7):
            merge = code.conditional_pooling(smooth[None], threshold, (3, 3))
            made = code.merge_wavg(merge, smooth[None])[0][0]
            if len(made) < 145:
                look = replace(see(smooth, 1), encoder=Encoder(144, (12, 12), 1, 23, 24))
                plan = inside_of("mustdrop-windows").reduce(look, len(made) - 1)
                yield overlap(rounded(made), rounded(plan.apply(smooth)))


ROWS = (
    *(
        Row(
            "crossget-b",
            "sdc17/CrossGET",
            "dc32975",
            "merged rows, the CLS row as guide on both sides" + GRID * grid,
            compare_crossget(grid),
        )
        for grid in (False, True)
    ),
    Row(
        "mustdrop-windows",
        "liuting20/MustDrop",
        "909afa5",
        "merged rows at their number of windows, as a set",
        compare_windows,
    ),
)
