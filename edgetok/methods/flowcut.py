"""FlowCut (arXiv 2505.19536): prune step by step, by what flows to the CLS row so far.

Reads of every block: attention of the CLS row [n], mean over heads; values [heads, n, H].

A patch scores (relevance + meaning) x strength: its share of the CLS row's attention; its share of
softmax(CLS value . values), not scaled and over all rows, the CLS row too, mean over heads; and the
L1 norm of its value, mean over heads. Half of the score so far and half of the new one add up over
the blocks. Behind every second block, the patches of highest running score stay, in raster order;
behind the last but one of the blocks, K. Dropped patches leave nothing behind.

Frozen form: fixed budget. The reference drops (n - K) / sqrt(rounds) x (1 - e²) patches, e being
the entropy of the relevance over its maximum, so that plain images lose more early; here e is held
at 0.9, and only the pace is no longer the image's. Without a CLS token, as in the reference for
Qwen2-VL: softmax of the mean query's scores, times the strength.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgetok import names, tokens
from edgetok.methods.inside import Inside
from edgetok.methods.method import method_inside
from edgetok.tokens.schedules import Encoder, Schedule

if TYPE_CHECKING:
    from torch import Tensor

KEEP_OF_PAST = 0.5
ENTROPY = 0.9
SMALLEST = 1e-12


def observe(look: tokens.Look) -> Tensor:
    """The running score of each patch: [n - prefix]."""
    strength = look.value.mean(0)[look.prefix :].abs().sum(1)
    if look.prefix:
        score = (_share(look.cls_attention()) + _share(_meaning(look))) * strength
    else:
        asked = look.query.mean(1, keepdim=True) @ look.key.transpose(1, 2)
        score = asked.softmax(-1)[:, 0].mean(0) * strength
    if look.running is None:
        return score
    return KEEP_OF_PAST * look.running + (1 - KEEP_OF_PAST) * score


def _meaning(look: tokens.Look) -> Tensor:
    # The CLS row takes part: a head where its value is long has little to say of patches.
    return (look.value @ look.value[:, 0].unsqueeze(2)).softmax(1)[:, look.prefix :, 0].mean(0)


def _share(scores: Tensor) -> Tensor:
    return scores / scores.sum().clamp(min=SMALLEST)


def reduce(look: tokens.Look, keep: int) -> tokens.Plan:
    scores = observe(look) if look.running is None else look.running
    plan = tokens.Plan.gather(tokens.topk(tokens.relative(scores), keep), look.patches.shape[0])
    return tokens.behind_prefix(plan, look.sizes, look.prefix)


def schedule(encoder: Encoder, budget: int) -> Schedule | None:
    """Cuts behind every second block so that the last is behind the last block but one.

    >>> schedule(Encoder(576, (24, 24), 1, 7), 64)
    (576, 528, 528, 465, 465, 64, 64)
    """
    left, found = encoder.n_tokens, []
    last = max(0, encoder.blocks - 2)
    for block in range(encoder.blocks):
        rounds = last - block
        if rounds > 0 and rounds % 2 == 0:
            left -= round((left - budget) / math.sqrt(rounds) * (1 - ENTROPY**2))
        left = budget if rounds <= 0 else left
        found.append(left)
    return tuple(found)


METHOD = method_inside(
    name="flowcut",
    paper="arXiv 2505.19536",
    needs=(names.CLS_ATTENTION, names.VALUES),
    verdict="fixed-budget",
    summary="prunes behind every second block by a running score of attention and values",
    inside=Inside(reduce, schedule, place="after block", observe=observe),
    differs=(
        "the pace is that of an entropy of 0.9; the score of a block is theirs (100 % of the best)"
    ),
)
