"""What is held back of logits before a token is chosen, as transformers' logits processors do it.

In their order and in float32, so that ids are those of `generate`: RepetitionPenalty,
NoRepeatNGram, MinLength, MinNewTokensLength, SuppressTokens, SuppressTokensAtBegin, TopK.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]


def penalize(logits: Logits, seen: Sequence[int], penalty: float) -> None:
    """Divide positive logits [W] of ids that were seen by the penalty, and multiply the others."""
    ids = np.unique(np.asarray(seen, np.int64))
    ids = ids[ids < len(logits)]
    found, by = logits[ids], np.float32(penalty)
    logits[ids] = np.where(found < 0, found * by, found / by)


def ban(logits: Logits, ids: Sequence[int]) -> None:
    """Give these ids no probability."""
    logits[[index for index in ids if index < len(logits)]] = -np.inf


def find_repeating(seen: Sequence[int], size: int) -> list[int]:
    """The ids that would end a sequence of `size` ids which was seen before.

    >>> find_repeating([1, 2, 3, 1, 2], 3)
    [3]
    """
    if len(seen) < size:
        return []
    ids = np.asarray(seen, np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(ids, size)
    last = ids[len(ids) - size + 1 :]
    following = np.unique(windows[(windows[:, :-1] == last).all(1), -1])
    return [int(index) for index in following]


def keep_likeliest(logits: Logits, count: int) -> None:
    """Give all but the `count` largest logits, and those equal to the last of them, none."""
    if count < len(logits):
        least = np.partition(logits, -count)[-count]
        logits[logits < least] = -np.inf
