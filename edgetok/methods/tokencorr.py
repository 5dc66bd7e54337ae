"""Token-level Correlation (arXiv 2407.14439): more tokens where fewer patches repeat each other.

Inputs: features [N, V] on a grid; keys [N, H] and CLS attention [N] of the feature layer, mean
over heads.

Each quarter of the grid counts the patches that are not redundant: whose key has a cosine above
0.8 with fewer than a tenth of the quarter's keys. K is shared out in that proportion, and each
quarter keeps its patches of highest CLS attention. Raster order.

Frozen form: own formulation. The code was never released and the paper's thresholds were not at
hand; its sub-images are crops of a large picture, here they are the quarters of one, and the total
is K instead of a number for each image. Patches chosen by a shallow layer are left out.
"""

from __future__ import annotations

from edgetok import names, tokens
from edgetok.methods.method import Method

QUARTERS = (2, 2)
CELLS = 4
ALIKE = 0.8
REPEATED_SHARE = 0.1


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    cells = tokens.cells(features.grid, QUARTERS)
    alike = tokens.similarity(features.keys, features.keys) > ALIKE
    inside = tokens.one_hot(cells, CELLS)  # [N, 4]
    repeats = ((alike.float() @ inside) * inside).sum(1)  # in its own quarter
    distinct = (repeats < REPEATED_SHARE * (inside @ inside.sum(0))).float()
    counts = tokens.quotas(distinct @ inside, budget)
    kept = tokens.quota_topk(features.cls_attention, cells, counts, budget)
    return tokens.Plan.gather(kept, features.n_tokens)


METHOD = Method(
    name="tokencorr",
    paper="arXiv 2407.14439",
    where="behind the tower",
    needs=(names.KEYS, names.CLS_ATTENTION),
    verdict="own formulation",
    summary="shares the budget among quarters by how little their patches repeat",
    reduce=reduce,
    cost="2 N² H + 20 N²",
    ranked=(names.CLS_ATTENTION,),
    differs="its repository holds no program",
)
