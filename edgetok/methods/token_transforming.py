"""Token Transforming (arXiv 2506.05709), our formulation: tokens that share their sources.

Reads of three blocks: attention of the CLS row [n], rows [n, V], how many patches each stands for.

The paper makes tokens as Y = W X with any matrix W, so that one source may feed several tokens; it
shows that this spares training, and how it builds W could not be read. Here the m rows of highest
CLS attention are anchors; each draws on all rows by a softmax of cosine / 0.1 plus the logarithm of
their sizes; each row then is divided among the anchors by how they draw on it; tokens are means of
what they got. (A cut to the nearest rows forked in the last bits of a sum.) Attention knows the
sizes, which sum to N. At a quarter, a half and three quarters of the depth, between attention and
MLP. Raster order of the anchors. Without a CLS token, attention received ranks.

Frozen form: own formulation; there is no reference to be equal to.
"""

from __future__ import annotations

from edgetok import names, tokens
from edgetok.methods.inside import Inside
from edgetok.methods.method import method_inside
from edgetok.tokens import schedules

TEMPERATURE = 0.1


def reduce(look: tokens.Look, keep: int) -> tokens.Plan:
    anchors = tokens.topk(tokens.relative(look.importance()), keep)
    rows, sizes = look.patches, look.patch_sizes
    plan = tokens.soft_anchors(rows, anchors, sizes, TEMPERATURE, reach=rows.shape[0])
    return tokens.behind_prefix(plan, look.sizes, look.prefix)


METHOD = method_inside(
    name="token-transforming",
    paper="arXiv 2506.05709",
    needs=(names.CLS_ATTENTION,),
    verdict="own formulation",
    summary="divides every row among several anchors in three blocks",
    inside=Inside(reduce, schedules.staged, proportional=True),
)
