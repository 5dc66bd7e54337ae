"""Frames of a video: what stands still from one to the next, and shares of a budget among them.

P frames of N patches each lie one after another, as pictures of a prompt do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgetok.tokens.plan import Plan, one_hot
from edgetok.tokens.scorers import on_grid, unit_rows
from edgetok.tokens.selectors import forced_topk


def frame_similarity(x: Tensor, frames: int) -> Tensor:
    """Cosine of each patch with that in its place in the frame before, on the grid.

    [P * N, V] -> [P - 1, N].
    """
    units = unit_rows(x).reshape(frames, -1, x.shape[1])
    return on_grid((units[1:] * units[:-1]).sum(2))


def frame_topk(scores: Tensor, kinds: Tensor, counts: Tensor, k: int) -> Tensor:
    """The best of each kind in each frame, then the best of all others: -> [k] int64, ascending.

    `quota_topk` for groups that lie frame by frame: P * N * N comparisons.

    Args:
        scores: [P, N].
        kinds: [P, N], equal numbers where patches of a frame may be compared.
        counts: [P, N], how many of a patch's kind its frame may keep.
    """
    place = torch.arange(scores.shape[1])
    earlier = place.unsqueeze(0) < place.unsqueeze(1)
    own, other = scores.unsqueeze(2), scores.unsqueeze(1)
    ahead = (other > own) | ((other == own) & earlier)
    rank = (ahead & (kinds.unsqueeze(2) == kinds.unsqueeze(1))).float().sum(2)
    return forced_topk(scores.flatten(), (rank < counts).flatten(), k)


def resample_frames(counts: Tensor, grid: tuple[int, int], k: int) -> Plan:
    """Resize the grid of each frame bilinearly to so many tokens: a plan of `k` tokens.

    Bands of equal height, as near to the proportions of the grid as whole numbers are, each
    divided evenly (some have a token more than others). Corners are not aligned, edges repeated.

    Args:
        counts: [P] float32 whole numbers of sum `k`.
    """
    (rows, columns), frames = grid, counts.shape[0]
    ends, slot = counts.cumsum(0), torch.arange(k).float().unsqueeze(1)
    of_frame = ((slot < ends) & (slot >= ends - counts)).float()  # [k, P]
    count = (of_frame * counts).sum(1)
    place = slot.squeeze(1) - (of_frame * (ends - counts)).sum(1)
    bands = (count * rows / columns).sqrt().floor().clamp(min=1.0).minimum(count)
    band = (((place + 1) * bands - 1) / count).floor()
    first, last = (count * band / bands).floor(), (count * (band + 1) / bands).floor()
    y = (band + 0.5) * rows / bands  # centres, in patches from the upper left corner
    x = (place - first + 0.5) * columns / (last - first)
    tall, wide = _hats(y - 0.5, rows), _hats(x - 0.5, columns)
    of_place = (tall.unsqueeze(2) * wide.unsqueeze(1)).reshape(k, 1, rows * columns)
    weights = (of_frame.unsqueeze(2) * of_place).reshape(k, frames * rows * columns)
    frame = (of_frame * torch.arange(frames)).sum(1)
    centre = (frame * rows + y.floor()) * columns + x.floor()
    return Plan.mix(weights, centre.long())


def _hats(place: Tensor, n: int) -> Tensor:
    """Weights of n samples at each place between them: [k] -> [k, n], rows of sum 1."""
    inside = place.clamp(0, n - 1).unsqueeze(1)
    return (1 - (inside - torch.arange(n)).abs()).clamp(min=0)


def cut_segments(still: Tensor) -> Tensor:
    """The first frame of each frame's segment: [P - 1, N] bool -> [P] float32.

    The cut maximises the sum over segments of (frames - 1) * (places that are still throughout).
    Of equally good cuts, that of the shortest last segment, and so on from the end (HoliTom).
    """
    gains = _gain_of_segments(still.float())
    frames, lengths = gains.shape[0], []
    best = torch.zeros(1)  # of the frames before the next one, the nearest first
    for end in range(frames):
        reached = best + gains[: end + 1, end]
        lengths.append(reached.argmax(0).float())
        best = torch.cat([reached.amax(0, keepdim=True), best])
    first = (frames - 1) - lengths[-1]
    found = [first]
    for frame in range(frames - 2, -1, -1):
        first = torch.where(first <= frame, first, frame - lengths[frame])
        found.append(first)
    return torch.stack(found[::-1])


def _gain_of_segments(still: Tensor) -> Tensor:
    """What a segment is worth, by its length less one and its last frame: [P - 1, N] -> [P, P]."""
    frames = still.shape[0] + 1
    alive, gains = torch.ones(frames, still.shape[1]), [torch.zeros(frames)]
    for more in range(1, frames):
        alive = alive[:-1] * still[more - 1 :]  # by the first frame
        gains.append(torch.cat([torch.zeros(more), alive.sum(1) * more]))
    return torch.stack(gains)


@dataclass(frozen=True, eq=False)
class Segments:
    """Frames that were cut into segments, and what is static throughout each of them.

    Args:
        together: [P, P] float32, 1 for frames of one segment.
        dynamic: [P, N] bool, patches that stay as they are.
        static: [P, N] bool, in the first frame of a segment, patches that are a mean over it.
    """

    together: Tensor
    dynamic: Tensor
    static: Tensor

    @property
    def spread(self) -> Tensor:
        """[P, P], what each frame of a segment counts in its mean."""
        return self.together / self.together.sum(1, keepdim=True)

    def average(self, scores: Tensor) -> Tensor:
        """Scores [P, N] with means over the segment at static patches."""
        return torch.where(self.static, self.spread @ scores, scores)

    def merge(self, kept: Tensor) -> Plan:
        """Patches `kept` [K] of all frames, static ones as means: a plan."""
        frames, n = self.dynamic.shape
        frame = (kept.unsqueeze(1) >= n * torch.arange(1, frames)).long().sum(1)
        place = one_hot(kept - n * frame, n)
        static = (self.static.float().index_select(0, frame) * place).sum(1, keepdim=True)
        own = one_hot(frame, frames)
        over = static * self.spread.index_select(0, frame) + (1 - static) * own
        weights = over.unsqueeze(2) * place.unsqueeze(1)
        return Plan.mix(weights.reshape(-1, frames * n), kept)


def find_static(still: Tensor, first: Tensor) -> Segments:
    """What is static throughout segments: [P - 1, N] bool, [P] first frames of segments."""
    together = (first.unsqueeze(0) == first.unsqueeze(1)).float()
    begins = first == torch.arange(first.shape[0])
    inner = (~begins).float()[1:]  # links to the frame before that lie inside a segment
    broken = (together[:, 1:] * inner) @ (~still).float()
    throughout = (broken == 0) & (together.sum(1, keepdim=True) > 1)
    return Segments(together, ~throughout, throughout & begins.unsqueeze(1))
