"""ToMe (arXiv 2210.09461): merge similar rows in every block, between attention and MLP.

Reads of each block: keys [heads, n, H]; rows [n, V] and how many patches each stands for.

Even rows of the sequence, CLS row included, are sources and odd ones targets. Each source has the
target of highest cosine between keys, averaged over heads; the r most similar sources join theirs.
Means are weighted by what rows stand for, and attention counts each row as often (the logarithm
of its size is added to the scores of its key). The CLS row never merges. Every block merges the
same number, the least that arrives at K, and at most half of what there is. Sizes sum to N.

Order: sources that stay (ascending behind a CLS row, by descending similarity without one, as the
reference has it), then targets. A language model sees the tokens in the order that this leaves,
block after block, which is no longer the raster's; `kept` says which patch each is centred on.

Frozen form: exact, cosines on a grid of 1/4096. Of a LLaVA tower, the blocks up to the feature
layer count.
"""

from __future__ import annotations

from edgetok import names, tokens
from edgetok.methods.inside import Inside
from edgetok.methods.method import method_inside
from edgetok.tokens import schedules


def reduce(look: tokens.Look, keep: int) -> tokens.Plan:
    n = look.x.shape[0]
    sources, targets = tokens.alternating(n)
    edges = tokens.set_edges(look.mean_keys(), sources, targets, look.prefix)
    groups, centres = tokens.merge_sets(
        *(edges, sources, targets, n - look.prefix - keep),
        in_order=look.prefix > 0,
        prefix=look.prefix,
    )
    return tokens.merge_groups(groups, centres, look.sizes)


METHOD = method_inside(
    name="tome",
    paper="arXiv 2210.09461",
    needs=(names.KEYS,),
    verdict="exact",
    summary="merges rows of similar keys in every block, with attention that knows their sizes",
    inside=Inside(reduce, schedules.constant, proportional=True),
    differs="rounding alone (97 to 99.7 % of groups; all of them with their cosines on our grid)",
)
