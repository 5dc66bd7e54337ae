"""CrossGET without its learned tokens (arXiv 2305.17455): match on the complete graph, in order.

Reads of each block: keys [heads, n, H], compared with all heads side by side; the CLS row's query;
rows [n, V] and how many patches each stands for.

Patches are ordered by the cosine to their nearest other one (of two nearest to each other, the one
of lower index is ahead), and each may go only into one behind it, which breaks circles. A patch
goes by its importance less that cosine: the r lowest are sources. Each source then joins the most
similar patch that stays, and the two are weighed by twice the softmax of their importances, times
their sizes. Importance is the cosine of a patch's key with the query of the guide. Attention knows
the sizes. The same number in every block, between attention and MLP; at most half. Order: raster,
as in the reference. Sizes sum to N.

Frozen form: fixed budget. The guide of the paper is a cross token trained for each block; here it
is the CLS row, so that what the text asks no longer guides. Without a CLS token, importance is the
attention received from all rows, as in the reference for LLaVA.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgetok import names, tokens
from edgetok.methods.inside import Inside
from edgetok.methods.method import method_inside
from edgetok.tokens import schedules

if TYPE_CHECKING:
    from torch import Tensor


def reduce(look: tokens.Look, keep: int) -> tokens.Plan:
    n = look.patches.shape[0]
    keys = look.key.transpose(0, 1).flatten(1)[look.prefix :]
    importance = tokens.on_grid(guide(look), steps=tokens.FINE_STEPS)
    similar, ahead = tokens.ahead_in_order(keys)
    gone = tokens.topk(ahead - importance, n - keep)
    stay = tokens.complement(gone, n)
    edges = similar.index_select(0, gone).index_select(1, stay)
    return tokens.behind_prefix(
        _weighed(look, importance, gone, stay, edges.argmax(1)), look.sizes, look.prefix
    )


def guide(look: tokens.Look) -> Tensor:
    """Importance of each patch: [n - prefix]."""
    if not look.prefix:
        return look.received()
    query, key = (part.transpose(0, 1).flatten(1) for part in (look.query, look.key))
    return tokens.cosine(key[look.prefix :], query[:1])[:, 0]


def _weighed(
    look: tokens.Look, importance: Tensor, gone: Tensor, stay: Tensor, target: Tensor
) -> tokens.Plan:
    """Sources into targets, weights of each pair 2 softmax(importances) times the sizes."""
    n, sizes = look.patches.shape[0], look.patch_sizes
    joins = tokens.one_hot(target, stay.shape[0]).T  # [stay, gone]
    own = importance.index_select(0, stay)
    share = (importance.index_select(0, gone) - own.index_select(0, target)).sigmoid()
    kept = tokens.one_hot(stay, n)
    sources = tokens.one_hot(gone, n)
    groups = kept + joins @ sources
    total = groups @ sizes
    # Of the target in its pairs, beyond itself. No matrix product: ONNX Runtime 1.31 folds the
    # transpose into one with a vector, and gets it wrong.
    excess = (joins * (1 - 2 * share)).sum(1)
    weights = kept * (1 + excess).unsqueeze(1) + (joins * (2 * share)) @ sources
    return tokens.Plan(stay, total, n, weights * sizes / total.unsqueeze(1))


METHOD = method_inside(
    name="crossget-b",
    paper="arXiv 2305.17455",
    needs=(names.KEYS, names.CLS_FEATURE),
    verdict="fixed-budget",
    summary="merges redundant and unimportant patches in every block, on the complete graph",
    inside=Inside(reduce, schedules.constant, proportional=True),
    differs=(
        "the CLS row is the guide, for which the paper trains tokens (90 to 95 %; 99.8 % "
        "with their cosines on our grid)"
    ),
)
