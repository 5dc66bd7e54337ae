"""Expedit (arXiv 2210.01035): cluster the patches early, and give rows back at the end if wanted.

Reads behind one block: its rows [N, V].

A quarter down the depth (behind the 8th of 32 blocks), the grid is pooled to fewer cells and five
rounds of soft k-means follow: each patch is divided among cells at most 2 away by a softmax of
-0.01 times the squared distance, and each cell becomes the mean of what it got. The blocks behind
run on the cells. A language model reads the cells; an output per patch comes from
`tokens.reconstruct`: each patch mixes its nearest cells by their distance when they were clustered.
Sizes sum to N, in parts. Raster order of the cells; `kept` is -1, no cell has a centre.

Frozen form: exact; iterations are unrolled. K must be rows x columns of a grid of the image's
proportions. Rounds, temperature, window and the 20 clusters that make a row again are those
released for SAM, a plain ViT; DINO with Swin takes 3 rounds, 1/100 and 25 clusters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgetok import tokens
from edgetok.methods.inside import Inside
from edgetok.methods.method import method_inside
from edgetok.tokens.schedules import Encoder, Schedule, at_once

if TYPE_CHECKING:
    from torch import Tensor

# As released for SAM (`hourglass_image_encoder.py`).
ROUNDS = 5
TEMPERATURE = 0.01
WINDOW = 5  # cells
NEAREST = 20  # cells that make a patch


def reduce(look: tokens.Look, keep: int) -> tokens.Plan:
    grid, parts = look.encoder.grid, cells(look.encoder.grid, keep)
    start, near = tokens.adaptive_cells(grid, parts), tokens.near_cells(grid, parts, WINDOW)
    weights, shares = tokens.soft_kmeans(look.patches, start, near, ROUNDS, TEMPERATURE)
    none = weights.argmax(1) * 0 - 1
    plan = tokens.Plan(none, shares @ look.patch_sizes, shares.shape[1], weights)
    return tokens.behind_prefix(plan, look.sizes, look.prefix)


def restore(patches: Tensor, then: Tensor, now: Tensor) -> Tensor:
    return tokens.reconstruct(patches, then, now, NEAREST, TEMPERATURE)


def cells(grid: tuple[int, int], budget: int) -> tuple[int, int]:
    """Rows and columns of the cells.

    Raises:
        ValueError: if no grid of these proportions has so many cells.
    """
    for down in range(1, grid[0] + 1):
        across = max(1, round(down * grid[1] / grid[0]))
        if down * across == budget:
            return down, across
    raise ValueError(f"no grid of the proportions of {grid} has {budget} cells")


def schedule(encoder: Encoder, budget: int) -> Schedule | None:
    rows, columns = encoder.grid
    possible = {d * max(1, round(d * columns / rows)) for d in range(1, rows)}
    block = max(0, round(encoder.blocks / 4) - 1)
    return at_once(encoder, budget, block) if budget in possible else None


METHOD = method_inside(
    name="expedit",
    paper="arXiv 2210.01035",
    needs=(),
    verdict="exact",
    summary="clusters the grid into fewer cells a quarter down the depth",
    inside=Inside(reduce, schedule, place="after block", restore=restore),
    differs=(
        "nothing, with the constants released for SAM; rows given back where theirs underflow to 0"
    ),
)
