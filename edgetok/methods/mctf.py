"""MCTF (arXiv 2403.10030): merge what is similar, uninformative and small, both ways.

Reads of each block: its rows [n, V], the whole attention map [heads, n, n], and how many patches
each row stands for.

Even rows and odd rows pair by the product of three attractions: cosine, ((c + 1) / 2); little
attention received, 1 / received; small size, 1 / size; the last two relative to their largest and
to the powers 1/20 and 1/40. Half of the r merges take even rows into odd ones, then odd rows, with
what joined them, go into even ones that are left. Means are weighted by attention received times
size; attention knows the sizes. One step ahead: rows merge before the values of the block are
made, and the map of the unmerged rows is merged with them, keys summed and queries averaged. The
CLS row never merges. Every block but the first merges the same number; never below 10 rows. Where
those blocks cannot arrive at K, since each merges half at most, the first one merges too. Sizes sum
to N.

Order: even rows that stay, ascending, then odd ones by descending attraction.

Frozen form: exact, attractions on a grid of 1/4096, so that equal ones tie; the
paper's figures are of fine-tuned models, and nothing is tuned here. These blocks have no fused
attention, since the whole map is read.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgetok import names, tokens
from edgetok.methods.inside import Inside
from edgetok.methods.method import method_inside
from edgetok.tokens import schedules
from edgetok.tokens.schedules import Encoder, Schedule

if TYPE_CHECKING:
    from torch import Tensor

INFORMATION_POWER = 1 / 20
SIZE_POWER = 1 / 40
FEWEST_ROWS = 10
SMALLEST = 1e-12


def reduce(look: tokens.Look, keep: int) -> tokens.Plan:
    n, received = look.x.shape[0], look.received().clamp(min=SMALLEST)
    sources, targets = tokens.alternating(n)
    similar = tokens.set_edges(look.x, sources, targets)
    pull = ((similar + 1) / 2).clamp(min=0)
    pull = pull * _pairs(1 / received, INFORMATION_POWER) * _pairs(1 / look.sizes, SIZE_POWER)
    edges = tokens.keep_prefix(tokens.on_grid(pull), sources, targets, look.prefix)
    groups, centres = tokens.merge_both_ways(
        edges, sources, targets, n - look.prefix - keep, look.prefix
    )
    return tokens.merge_groups(groups, centres, look.sizes, received * look.sizes)


def _pairs(values: Tensor, power: float) -> Tensor:
    """Products of even and odd entries relative to the largest, to a power: [n] -> [even, odd]."""
    scaled = (values / values.max()) ** power
    return scaled[::2].unsqueeze(1) * scaled[1::2].unsqueeze(0)


def schedule(encoder: Encoder, budget: int) -> Schedule | None:
    """
    >>> schedule(Encoder(196, (14, 14), 1, 12), 20)
    (196, 180, 164, 148, 132, 116, 100, 84, 68, 52, 36, 20)
    """
    fewest, behind = FEWEST_ROWS - encoder.prefix, replace(encoder, blocks=encoder.blocks - 1)
    found = schedules.constant(behind, budget, fewest)
    if found is None:  # too far down for the blocks behind the first one
        return schedules.constant(encoder, budget, fewest)
    return (encoder.n_tokens, *found)


METHOD = method_inside(
    name="mctf",
    paper="arXiv 2403.10030",
    needs=(names.ATTENTION,),
    verdict="exact",
    summary="merges both ways by similarity, attention received and size, one step ahead",
    inside=Inside(reduce, schedule, place="before values", proportional=True),
    differs="the number per block is one that ends at K; rounding (99 % of merged rows)",
)
