"""DART (arXiv 2502.11494): keep what repeats a few pivots least.

Inputs: hidden rows, visual and text behind the image, after the decoder's last norm; rotated keys
of the layer before the cut.

Pivots are the 4 visual and the 4 text rows whose keys have the largest L1 norm, over all heads.
The visual pivots stay, and each pivot in turn has those stay that resemble it least by cosine, as
many for each. Before layer 2, at any depth; in order, at their positions. So a share R of N tokens
leaves 4 + 8 floor(R N / 8): 132 of 576 for the paper's 128 (its reduction ratio 0.778), 68 for 64,
196 for 192. Where a plan wants another number, the first pivots have one more.

Frozen form: pivots come by place. The authors iterate over a Python set, whose order follows from
how far the picture is from the start of the prompt. A prompt of fewer than 4 text rows behind the
image, which they refuse, has its first pivot ask again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgetok import tokens
from edgetok.prefill.look import Look
from edgetok.prefill.method import PrefillMethod
from edgetok.prefill.schedules import Counts, share, staged

if TYPE_CHECKING:
    from torch import Tensor

LAYER = 2
PIVOTS = 4  # of the image, and as many of the text


def counts(layers: int, visual: int, ratio: float) -> Counts:
    each = share(visual, ratio) // (2 * PIVOTS)
    return staged(layers, visual, {min(LAYER, layers - 1): min(visual, PIVOTS * (1 + 2 * each))})


def cut(look: Look, keep: int) -> tokens.Plan:
    before = look.before
    first = min(keep, PIVOTS)
    own = tokens.topk(_length(before.visual_keys()), first)
    if keep <= PIVOTS:
        return tokens.Plan.gather(own, look.count)
    visual, text = (tokens.unit_rows(look.norm(rows)) for rows in (look.visual, look.text))
    asking = [visual.index_select(0, own), text.index_select(0, _text_pivots(look))]
    kept = tokens.least_alike(visual, asking, tokens.mask_of(own, look.count), keep - first)
    return tokens.Plan.gather(tokens.raster_indices(kept, keep), look.count)


def _length(keys: Tensor) -> Tensor:
    """[key/value heads, n, H] -> L1 norm of each row, [n]."""
    return keys.abs().sum((0, 2))


def _text_pivots(look: Look) -> Tensor:
    """Places among the text rows, int64, ascending."""
    import torch

    length = torch.where(look.is_text > 0, _length(look.before.text_keys()), -1.0)
    found = tokens.topk(length, min(PIVOTS, length.shape[0]))
    found = torch.where(look.is_text.index_select(0, found) > 0, found, found[:1])
    return torch.cat([found, found[:1].expand(PIVOTS - found.shape[0])])


METHOD = PrefillMethod(
    name="dart",
    paper="arXiv 2502.11494",
    verdict="own formulation",
    summary="keeps what repeats 4 visual and 4 text pivots least",
    positions="kept",
    reads=("previous attention",),
    ratio=128 / 576,
    ratio_is="share that stays from layer 2 on, up to whole eighths, and 4 pivots",
    counts=counts,
    cut=cut,
    differs="95.9 %; all of them once the authors' pivots are sorted: theirs come in the order of "
    "Python's sets",
)
