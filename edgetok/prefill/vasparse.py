"""VASparse's score (arXiv 2501.06553): squared attention, and how much a token looks at the image.

Inputs: attention in the layer before the cut, mean over heads: of the last text row, and of all
visual rows to each other, causal. Reads K rows of attention.

A token's score is the square of the attention it receives plus 0.1 times the softmax, over tokens,
of the attention that it gives to visual tokens. At layer 2 the highest stay.

Frozen form: own formulation. In the paper the score thins the cache at each decoding step; here it
takes the place of FastV's. Its weight is not published with the score.
"""

from __future__ import annotations

from dataclasses import replace

from edgetok import tokens
from edgetok.prefill import fastv
from edgetok.prefill.look import Look

WEIGHT = 0.1


def cut(look: Look, keep: int) -> tokens.Plan:
    asked = look.before.from_last().mean(0)
    looks = look.before.from_visual().mean(0).sum(1)
    shares = looks[None].softmax(1)[0]  # TensorRT takes no Softmax of one dimension
    scores = asked**2 + WEIGHT * shares
    return tokens.Plan.gather(tokens.topk(scores, keep), look.count)


METHOD = replace(
    fastv.METHOD,
    name="vasparse",
    paper="arXiv 2501.06553",
    verdict="own formulation",
    summary="keeps what the last token attends to and what attends to the image",
    cut=cut,
    differs="",
)
