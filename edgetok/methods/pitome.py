"""PiToMe (arXiv 2405.16148): merge where rows are alike, and leave alone what stands out.

Reads of each block: its rows [n, V], which are compared themselves, as the reference has it for
CLIP of Hugging Face (`clip_hf.py`).

Behind every block, a patch has an energy: the mean over patches of ELU(cosine - margin), high in
large groups of similar ones. With r rows to go, the 2r of highest energy take part, the first,
third, ... of them as sources and the others as targets; every source joins the target of highest
cosine. In the first half of the depth and one block more (13 of 24), all rows take part but for
the prefix, and split by place, as in ToMe (`use_bsm` of the reference). The margin falls with
depth: 0.9 (1 - l / L), L being all blocks of the tower, those behind the feature layer too. Means
are plain ones, however many patches a row stands for (`merge_mean`); attention knows no sizes
either. Each block leaves the same share of the patches, and at least half. Sizes sum to N.

Order: patches that took no part by descending energy, then targets by theirs; where all take
part, as in ToMe.

Frozen form: exact for CLIP of Hugging Face, cosines on a grid of 1/4096, but for the number of
rows: the reference takes whole numbers of a share of the rows, here each block leaves what leads
to K. Other towers (SigLIP, ViT, DINOv2) reduce in the same way; the reference's patches for timm,
DeiT, MAE and BLIP differ: they merge between attention and MLP, by keys or with other margins, and
weigh means by size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgetok import tokens
from edgetok.methods.inside import Inside
from edgetok.methods.method import method_inside
from edgetok.tokens import schedules

if TYPE_CHECKING:
    from torch import Tensor

MARGIN = 0.9


def reduce(look: tokens.Look, keep: int) -> tokens.Plan:
    depth = look.encoder.layers
    if look.block <= depth / 2:
        return by_place(look, keep)
    return by_energy(look, keep, MARGIN - MARGIN * look.block / depth)


def by_place(look: tokens.Look, keep: int) -> tokens.Plan:
    sources, targets = tokens.alternating(look.x.shape[0])
    edges = tokens.set_edges(look.x, sources, targets, look.prefix)
    r = look.patches.shape[0] - keep
    groups, centres = tokens.merge_sets(
        edges, sources, targets, r, in_order=look.prefix > 0, prefix=look.prefix
    )
    return merge_evenly(groups, centres, look.sizes)


def by_energy(look: tokens.Look, keep: int, margin: float) -> tokens.Plan:
    r = look.patches.shape[0] - keep
    similar = tokens.similarity(look.patches, look.patches)
    ranked = tokens.order(tokens.relative(tokens.energy(similar, margin)))
    groups, centres = tokens.merge_ranked(similar, ranked, r)
    plan = merge_evenly(groups, centres, look.patch_sizes)
    return tokens.behind_prefix(plan, look.sizes, look.prefix)


def merge_evenly(groups: Tensor, centres: Tensor, sizes: Tensor) -> tokens.Plan:
    """Plain means of rows, whatever each stands for."""
    return tokens.merge_groups(groups, centres, sizes, weight=sizes * 0 + 1)


METHOD = method_inside(
    name="pitome",
    paper="arXiv 2405.16148",
    needs=(),
    verdict="exact",
    summary="merges inside large groups of similar rows, protects rows that stand out",
    inside=Inside(reduce, schedules.geometric, place="after block"),
    differs=(
        "the same share of patches from each block is one that ends at K; rounding (94 to "
        "99.5 % of rows, all with cosines and ranks on our grids); towers other than CLIP "
        "reduce as CLIP of Hugging Face"
    ),
)
