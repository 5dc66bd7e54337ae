"""SparseVLM (arXiv 2410.04417), both versions that its authors released.

Inputs: attention of the text rows behind the image in the layer before the cut; the rows that
entered the first layer, visual [K0, D] and text [T, D]; version 1 also hidden rows.

A text row is a rater if its share in the visual rows' softmax over text, their mean, is at least
the mean of all text rows. Before layers 3, 7 and 16 of 32 the tokens that raters attend to most
stay, in order. Constant counts are the authors', whose setting for 192 tokens is the ratio here.

Version 1 (`sparsevlm`; the ICML paper, the default of the code) averages heads and recycles: of
p tokens that go, the int(0.3 p) + 1 best are clustered by density peaks, a tenth as many clusters
and one, and a cluster's mean is put behind the kept ones. Positions are numbered anew. Of 576:
300 + 9, then 200 + 4, then 110 + 3. Their densities differ by random numbers below a millionth;
here equal ones go to the better token.

Version 2 (`sparsevlm-v2`, SparseVLM+) divides attention by what rotary positions alone compare,
takes the 14 heads whose raters then look at the image most, and recycles nothing: 300, 200, 118,
at the positions that they had.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgetok import tokens
from edgetok.prefill.look import Look
from edgetok.prefill.method import PrefillMethod
from edgetok.prefill.schedules import PAPER_LAYERS, Counts, at_depths, scale, share, staged

if TYPE_CHECKING:
    from torch import Tensor

LAYERS = (3, 7, 16)
RATIO = 300 / 576
RECYCLING = (1.0, 200 / 300, 110 / 300)  # shares of the first cut's count
SELECTING = (1.0, 200 / 300, 118 / 300)
RECYCLED, PER_CLUSTER = 0.3, 10
HEADS = 14
HIDDEN = -1e9


def recycled(pruned: int) -> int:
    """How many of the pruned tokens are clustered."""
    return int(pruned * RECYCLED) + 1


def clusters(pruned: int) -> int:
    """How many rows they become."""
    return recycled(pruned) // PER_CLUSTER + 1


def split(seen: int, left: int) -> int:
    """How many of `left` rows are kept tokens, as few as can be; all, if no split makes `left`.

    >>> split(576, 309), split(309, 204), split(204, 113), split(576, 1)
    (300, 200, 110, 1)
    """
    return next((k for k in range(1, left) if k + clusters(seen - k) == left), left)


def counts(layers: int, visual: int, ratio: float) -> Counts:
    kept = {}
    for depth, part in zip(LAYERS, RECYCLING, strict=True):
        kept[scale(depth, layers)] = share(visual, ratio * part)
    cuts, seen = {}, visual
    for layer, keep in kept.items():
        seen = cuts[layer] = min(seen, keep + clusters(seen - min(seen, keep)))
    return staged(layers, visual, cuts)


def counts_v2(layers: int, visual: int, ratio: float) -> Counts:
    return at_depths(layers, visual, LAYERS, [ratio * s for s in SELECTING], PAPER_LAYERS)


def cut(look: Look, keep: int) -> tokens.Plan:
    n, kept = look.count, split(look.count, keep)
    scores = _find_raters(look) @ look.before.from_text().mean(0)  # their mean but for a factor
    mask = tokens.topk_mask(scores, kept)
    plan = tokens.Plan.gather(tokens.raster_indices(mask, kept), n)
    if kept == keep:
        return plan
    best = tokens.order(tokens.exclude(scores, mask))[: recycled(n - kept)]
    centres, groups = tokens.density_peaks(look.visual.index_select(0, best), keep - kept)
    weights = (groups / groups.sum(1, keepdim=True)) @ tokens.one_hot(best, n)
    return plan.concat(tokens.Plan.mix(weights, best.index_select(0, centres)))


def cut_v2(look: Look, keep: int) -> tokens.Plan:
    raters = _find_raters(look)
    looked = raters @ (look.before.from_text() / look.before.from_positions())  # [heads, K]
    heads = min(HEADS, looked.shape[0])
    scores = tokens.topk_mask(looked.sum(1), heads).float() @ looked
    return tokens.Plan.gather(tokens.topk(scores, keep), look.count)


def _find_raters(look: Look) -> Tensor:
    """1 at text rows that speak of the image, [T] float32."""
    likeness = look.visual_input @ look.text_input.T  # [K0, T]
    padding = (1 - look.is_text) * HIDDEN
    relevance = (likeness + padding).softmax(1).mean(0) * look.is_text
    return (relevance >= relevance.sum() / look.is_text.sum()).float() * look.is_text


METHOD = PrefillMethod(
    name="sparsevlm",
    paper="arXiv 2410.04417",
    verdict="exact",
    summary="keeps what those text tokens attend to that resemble the image, clusters of the rest",
    positions="renumbered",
    reads=("previous attention",),
    ratio=RATIO,
    ratio_is="share that stays at the first of three cuts; 0.67 and 0.37 of it at the others",
    counts=counts,
    cut=cut,
    differs="nothing but rounding and, where densities nearly agree, their random numbers",
)
V2 = PrefillMethod(
    name="sparsevlm-v2",
    paper="arXiv 2410.04417",
    verdict="exact",
    summary="keeps what such text tokens attend to for other reasons than places, in 14 heads",
    positions="kept",
    reads=("previous attention",),
    ratio=RATIO,
    ratio_is="share that stays at the first of three cuts; 0.67 and 0.39 of it at the others",
    counts=counts_v2,
    cut=cut_v2,
    differs="nothing",
)
