"""CoreMatching, core tokens (arXiv 2505.19235): neurons that fire as those of the question do.

Inputs: what the last projection of the MLP of the layer before the cut reads, at the visual rows
[K, F] and at the last text row [F].

A neuron is active where that is above zero; a token's score is how many neurons are active in it
and in the last text row. At one layer, 5 of 32, the tokens with the most stay, in order and at
their positions.

Frozen form: fixed-budget. The paper keeps what lies above the elbow of the sorted scores, probes
the fifth row from the end, and its code zeroes keys and values from layer 5 to 18; core neurons,
which decoding would be restricted to, are left out. Ties go to the lower index.
"""

from __future__ import annotations

from edgetok import tokens
from edgetok.prefill.look import Look
from edgetok.prefill.method import PrefillMethod
from edgetok.prefill.schedules import Counts, scale, share, staged

LAYER = 5


def counts(layers: int, visual: int, ratio: float) -> Counts:
    return staged(layers, visual, {scale(LAYER, layers): share(visual, ratio)})


def cut(look: Look, keep: int) -> tokens.Plan:
    if look.gates is None:
        raise TypeError("CoreMatching reads gates")
    of_visual, of_last = ((gates > 0).float() for gates in look.gates)
    return tokens.Plan.gather(tokens.topk(of_visual @ of_last, keep), look.count)


METHOD = PrefillMethod(
    name="corematching",
    paper="arXiv 2505.19235",
    verdict="fixed-budget",
    summary="keeps tokens whose MLP neurons fire with those of the last text token",
    positions="kept",
    reads=("gates",),
    ratio=0.4,
    ratio_is="share that stays from a sixth of the depth on",
    counts=counts,
    cut=cut,
    differs="a constant number, gone for good behind one layer; read beside it only",
)
