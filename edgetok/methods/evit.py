"""EViT (arXiv 2202.07800) and plain top-k: drop what the CLS row attends to least, in three blocks.

Reads of each block that reduces: attention of its CLS row [n], mean over heads; rows [n, V].

At a quarter, a half and three quarters of the depth (the 4th, 7th and 10th of 12 blocks), between
attention and MLP, the patches of highest attention stay and the same share goes each time. `evit`
keeps one place for a last token that sums the dropped rows by their attention, not divided by its
sum; `topk` just drops them. Raster order, the sum last; the references order by score instead,
which nothing in an encoder sees. Sizes sum to N for `evit`, to K for `topk`.

Frozen form: exact, attention ranked in steps of 1/65536 of the largest, so that every runtime ranks
alike; one or two patches differ from the authors' in a tenth of real pictures. Without a CLS token,
attention received from all rows ranks and weighs.
"""

from __future__ import annotations

from edgetok import names, tokens
from edgetok.methods.inside import Inside
from edgetok.methods.method import method_inside
from edgetok.tokens import schedules
from edgetok.tokens.schedules import Encoder, Schedule


def fuse(look: tokens.Look, keep: int) -> tokens.Plan:
    plan = tokens.keep_and_sum(look.importance(), look.patch_sizes, keep)
    return tokens.behind_prefix(plan, look.sizes, look.prefix)


def drop(look: tokens.Look, keep: int) -> tokens.Plan:
    plan = tokens.Plan.gather(
        tokens.topk(tokens.relative(look.importance()), keep), look.patches.shape[0]
    )
    return tokens.behind_prefix(plan, look.sizes, look.prefix)


def at_least_two(encoder: Encoder, budget: int) -> Schedule | None:
    """One place is the sum's, and a token beside it."""
    return schedules.staged(encoder, budget) if budget > 1 else None


METHOD = method_inside(
    name="evit",
    paper="arXiv 2202.07800",
    needs=(names.CLS_ATTENTION,),
    verdict="exact",
    summary="drops patches of low CLS attention in three blocks, into one sum",
    inside=Inside(fuse, at_least_two),
    differs="rounding alone: attention ranks in steps of 1/65536 of the largest (99.96 %)",
)
TOPK = method_inside(
    name="topk",
    paper="arXiv 2202.07800",
    needs=(names.CLS_ATTENTION,),
    verdict="exact",
    summary="drops patches of low CLS attention in three blocks",
    inside=Inside(drop, schedules.staged),
    differs="rounding alone: attention ranks in steps of 1/65536 of the largest (99.96 %)",
)
