"""The one saliency of all policies: attention that a row received, weighted by who gave it.

`query_weights[q]` is 1 for H2O, alpha^(n-1-q) for A2SF, 1 in the last rows for SnapKV, and 1 at
probes for ZipCache. Only the asked rows of attention are made, a chunk at a time. Rows after the
prompt's n true rows weigh nothing and receive nothing: causal attention never reaches them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgetok.kv.policy import SCORE, SEEN, TEXT, Policy

CHUNK_ROWS = 128  # queries at a time: [heads, 128, S] is all of attention that ever exists


def ask_all(rows: int, count: Tensor) -> tuple[Tensor, Tensor]:
    """Every row, with the same weight: H2O."""
    asked = torch.arange(rows)
    return asked, (asked < count).float()


def ask_decaying(rows: int, count: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Every row, a step back in time weighing `alpha` times as much: A2SF."""
    asked = torch.arange(rows)
    age = (count - 1 - asked).clamp(min=0).float()
    return asked, torch.where(asked < count, alpha**age, 0.0)


def ask_last(rows: int, count: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """The last rows: SnapKV. Fewer where the prompt is shorter."""
    asked = count - min(window, rows) + torch.arange(min(window, rows))
    return asked.clamp(min=0), (asked >= 0).float()


def ask_probes(rows: int, count: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """The last of `stride` equal parts of the rows, and every `stride`-th other row: ZipCache."""
    recent = torch.arange(-(-rows // stride))
    newest = count - 1 - recent
    last = (count + stride - 1) // stride
    fresh = recent < last
    others = torch.arange(0, rows, stride)
    asked = torch.cat([newest.clamp(min=0), others])
    return asked, torch.cat([fresh, others < count - last]).float()


def received(
    queries: Tensor, asked: Tensor, weights: Tensor, keys: Tensor, scaling: float
) -> Tensor:
    """Weighted attention that each row receives, mean over the query heads of its group.

    Args:
        queries: [heads, R, H], rotated, of the rows `asked` [R] int64.
        weights: [R], 0 at rows that are not asked after all.
        keys: [G, S, H], rotated.

    Returns:
        float32 [G, S].
    """
    groups, rows, width = keys.shape
    total = torch.zeros(groups, rows)
    place = torch.arange(rows)
    for at in range(0, asked.shape[0], CHUNK_ROWS):
        part = slice(at, min(at + CHUNK_ROWS, asked.shape[0]))
        asking = queries[:, part].reshape(groups, -1, width)  # [G, heads / G * r, H]
        logits = (asking * scaling) @ keys.transpose(1, 2)
        logits = logits.reshape(groups, -1, part.stop - part.start, rows)
        ahead = place > asked[part, None]
        attention = torch.where(ahead, -1e30, logits).softmax(-1).mean(1)  # [G, r, S]
        total = total + (attention * weights[part, None]).sum(1)
    return total


def visible(asked: Tensor, weights: Tensor, rows: int) -> Tensor:
    """By how many asked queries each row could be seen: [rows] float32."""
    reach = torch.arange(rows) <= asked[:, None]
    return (reach * weights[:, None]).sum(0)


def smoothed(scores: Tensor, count: Tensor, window: int, width: int) -> Tensor:
    """SnapKV's votes: neighbours averaged, and the asking window itself above all others.

    The window's rows stay for good, so they get more than `window` queries could give.
    """
    place = torch.arange(scores.shape[-1])
    before = torch.where(place < count - window, scores, 0.0)
    pooled = torch.nn.functional.avg_pool1d(before[None], width, 1, width // 2)[0]
    own = torch.where(place < count, float(window + 1), 0.0)
    return torch.where(place < count - window, pooled, own)


def first_state(
    policy: Policy,
    scores: Tensor,
    seen: Tensor,
    text: Tensor,
    count: Tensor,
) -> Tensor:
    """The planes of a prompt's rows.

    Args:
        scores: [G, S], as `received` or drawn.
        seen, text: [S].

    Returns:
        float32 [P, G, S].
    """
    if policy.pool:
        scores = smoothed(scores, count, policy.window, policy.pool)
    rows = {SCORE: scores, SEEN: seen.expand_as(scores), TEXT: text.expand_as(scores)}
    return torch.stack([rows[name] for name in policy.row_state])


def next_state(policy: Policy, row_state: Tensor, attention: Tensor, length: Tensor) -> Tensor:
    """The planes after a decode step.

    Args:
        planes: [P, G, C] before it; what lies after `length` rows is left over and not read.
        attention: [G, C] of the step's row, mean over the heads of a group; or, where scores are
            drawn, the new row's number at its own place.
        length: scalar, rows held before the step: the new row's place.

    Returns:
        float32 [P, G, C].
    """
    place = torch.arange(row_state.shape[-1])
    held, new = place < length, place == length
    after = []
    for number, name in enumerate(policy.row_state):
        old = torch.where(held, row_state[number], 0.0)
        if name == SCORE and policy.drawn:
            old = old + torch.where(new, attention, 0.0)
        elif name == SCORE and policy.decay is not None:
            old = policy.decay * old + attention
        elif name == SEEN:
            old = old + (held | new)
        elif name == TEXT:
            old = old + new
        after.append(old)
    return torch.stack(after)
