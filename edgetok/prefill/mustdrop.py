"""MustDrop, prefill stage (arXiv 2411.10803): drop what no text row and not all together look at.

Inputs: attention a [T, K] of the text rows behind the image in the layer before the cut, mean over
heads.

Behind layers 2, 6, 10 and 14 of 32 the paper drops token j if Σ_t a_tj < g ΣΣ a and
max_t a_tj < u. Both hold exactly where max(Σ_t a_tj / (g ΣΣ a), max_t a_tj / u) < 1, which is the
score here: with as many tokens as the thresholds would leave, the same ones stay.

Frozen form: fixed-budget; g and u of the paper's setting of 192 tokens. Its key set, the patches
that the tower's CLS token attends to most, is not known here and not protected; `--method mustdrop`
keeps it in front of the decoder.

With `--kv-policy mustdrop` the cache of the layer in front of the first cut, and of all behind it,
holds the tokens that the last cut leaves, as the paper's decode stage does.
"""

from __future__ import annotations

from edgetok import tokens
from edgetok.prefill.look import Look
from edgetok.prefill.method import Held, PrefillMethod
from edgetok.prefill.schedules import Counts, by_powers

LAYERS = (3, 7, 11, 15)
GLOBAL = 1e-3
INDIVIDUAL = 1e-3
SMALLEST_SUM = 1e-12


def counts(layers: int, visual: int, ratio: float) -> Counts:
    return by_powers(layers, visual, LAYERS, ratio)


def cut(look: Look, keep: int) -> tokens.Plan:
    attended = look.before.from_text().mean(0)  # [T, K]
    of_all = attended.sum(0) / (GLOBAL * attended.sum().clamp(min=SMALLEST_SUM))
    scores = of_all.maximum(attended.amax(0) / INDIVIDUAL)
    return tokens.Plan.gather(tokens.topk(scores, keep), look.count)


def survivors(counts: Counts) -> Counts:
    """From the layer in front of the first cut on, as many as the last cut leaves.

    The paper numbers a cut by the layer whose attention it reads: that one saw all tokens, and its
    cache is cut too, but for the first layer's, which stays whole at any depth: the host counts
    the rows of a prompt by it.

    >>> survivors((16, 16, 12, 9, 9))
    (16, 9, 9, 9, 9)
    """
    whole = max(1, counts.count(counts[0]) - 1)
    return counts[:1] * whole + counts[-1:] * (len(counts) - whole)


METHOD = PrefillMethod(
    name="mustdrop",
    paper="arXiv 2411.10803",
    verdict="fixed-budget",
    summary="keeps what text attends to, all together or one row strongly",
    positions="kept",
    reads=("previous attention",),
    ratio=0.75,
    ratio_is="share that stays at each of four cuts",
    counts=counts,
    cut=cut,
    held=Held("mustdrop", survivors),
    differs="nothing in the filter at its own number of tokens; the number is constant, no key set "
    "is protected, and positions are kept where theirs are numbered anew",
)
