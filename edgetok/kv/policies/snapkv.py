"""SnapKV (arXiv 2404.14469): the prompt's last rows vote for what stays, once.

Attention of the last 32 rows is summed, averaged over five neighbours, and the highest stay beside
those 32; neither changes at decode. The paper lets the cache grow from there. Here rows of the
answer have no votes, so of them only the last 32 outlive a compaction.

Attention is averaged over the query heads of a key/value head, which holds its rows once; the
released code repeats keys and values and lets each query head choose. Window, average and its width
are that code's defaults; the papers' own runs take the maximum of seven neighbours.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from edgetok.kv.policy import SCORE, Policy

if TYPE_CHECKING:
    from torch import Tensor


def ask(rows: int, count: Tensor, window: int) -> tuple[Tensor, Tensor]:
    from edgetok.kv.saliency import ask_last

    return ask_last(rows, count, window)


def with_window(window: int) -> Policy:
    """SnapKV whose last `window` rows vote."""
    return Policy(
        name="snapkv",
        paper="arXiv 2404.14469",
        summary="what the prompt's last rows attend to, averaged over neighbours",
        differs="generated rows beyond the window go, where the program keeps them all; a group's "
        "heads choose together (82.9 % of rows at two heads a group, all of them at one); averages "
        "of 5 scores as by default, where the papers' runs take maxima of 7",
        row_state=(SCORE,),
        sinks=0,
        recent=window,
        asks=partial(ask, window=window),
        pool=5,
    )


POLICY = with_window(32)
