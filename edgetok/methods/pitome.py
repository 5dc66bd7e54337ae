"""PiToMe (arXiv 2405.16148): merge where rows are alike, and leave alone what stands out.

Reads of each block: its rows [n, V], which are compared themselves, as the reference has it for
CLIP of Hugging Face; and how many patches each stands for.

Behind every block, a patch has an energy: the mean over patches of ELU(cosine - margin), high in
large groups of similar ones. With r rows to go, the 2r of highest energy take part, the first,
third, ... of them as sources and the others as targets; every source joins the target of highest
cosine. In the first half of the depth, all rows take part, the CLS row too, and split by place,
as in ToMe (`use_bsm` of the reference). The margin falls with depth: 0.9 (1 - l / L) for CLIP,
and for SigLIP, which no reference covers, the same as of supervised ViTs. Means are weighted by
what rows stand for; attention does not know it, as in the reference. Each block leaves the same
share of the patches, and at least half. Sizes sum to N.

Order: patches that took no part by descending energy, then targets by theirs; where all take
part, as in ToMe.

Frozen form: exact for CLIP, cosines on a grid of 1/4096. The reference's plain mean
in some patches is not followed.
"""

from __future__ import annotations

from collections.abc import Callable

from edgetok import tokens
from edgetok.methods.inside import Inside
from edgetok.methods.method import method_inside
from edgetok.tokens import schedules

# First and last margin by family of checkpoints, and whether the half that merges by place is
# the first; the last margin is that behind the last block.
MARGINS = {
    "clip": (0.9, 0.0, "first"),
    "clip-lavis": (0.95, 0.0, "first"),
    "augreg": (0.9, 0.0, "first"),
    "deit": (0.75, 0.0, "first"),
    "mae": (0.75, 0.0, "second"),
    "blip": (0.9, 0.0, "first"),
    "blip2": (0.75, 0.35, "first"),
}


def reducer(family: str) -> Callable[[tokens.Look, int], tokens.Plan]:
    """The step with the margins of a family of checkpoints."""
    high, low, half = MARGINS[family]

    def reduce(look: tokens.Look, keep: int) -> tokens.Plan:
        depth = look.encoder.blocks
        if (look.block < depth / 2) == (half == "first"):
            return by_place(look, keep)
        return by_energy(look, keep, high - (high - low) * look.block / depth)

    return reduce


def by_place(look: tokens.Look, keep: int) -> tokens.Plan:
    sources, targets = tokens.alternating(look.x.shape[0])
    edges = tokens.set_edges(look.x, sources, targets, look.prefix)
    r = look.patches.shape[0] - keep
    groups, centres = tokens.merge_sets(edges, sources, targets, r, in_order=look.prefix > 0)
    return tokens.merge_groups(groups, centres, look.sizes)


def by_energy(look: tokens.Look, keep: int, margin: float) -> tokens.Plan:
    r = look.patches.shape[0] - keep
    similar = tokens.similarity(look.patches, look.patches)
    ranked = tokens.order(tokens.relative(tokens.energy(similar, margin)))
    groups, centres = tokens.merge_ranked(similar, ranked, r)
    plan = tokens.merge_groups(groups, centres, look.patch_sizes)
    return tokens.behind_prefix(plan, look.sizes, look.prefix)


METHOD = method_inside(
    name="pitome",
    paper="arXiv 2405.16148",
    needs=(),
    verdict="exact",
    summary="merges inside large groups of similar rows, protects rows that stand out",
    inside=Inside(reducer("clip"), schedules.geometric, place="after block"),
)
