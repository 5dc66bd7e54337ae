"""Schedules: how many patches each block of an encoder leaves, whole numbers known at export.

A schedule has one entry per block, never rises, and ends at the budget K. It is None where the
encoder is too short for the budget. Plain integers: nothing here needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass

Schedule = tuple[int, ...]


@dataclass(frozen=True)
class Encoder:
    """The numbers of a vision tower that reductions inside it depend on.

    Args:
        n_tokens: N, the patches.
        grid: rows and columns of patches.
        prefix: rows before the patches, which are never merged or dropped (1 with a CLS token).
        blocks: blocks up to the feature layer.
        depth: blocks of the whole tower, if there are more.
    """

    n_tokens: int
    grid: tuple[int, int]
    prefix: int
    blocks: int
    depth: int = 0

    @property
    def layers(self) -> int:
        """Blocks of the whole tower, those that are never run too."""
        return max(self.blocks, self.depth)


def constant(encoder: Encoder, budget: int, fewest: int = 1) -> Schedule | None:
    """The same number of patches less after every block, at most half of those there are.

    The number is the smallest that arrives at K; the last blocks that reduce take what is left.

    >>> constant(Encoder(16, (4, 4), 1, 4), 7)
    (13, 10, 7, 7)
    """
    if budget < fewest:
        return None
    for step in range(encoder.n_tokens - budget + 1):
        left, found = encoder.n_tokens, []
        for _ in range(encoder.blocks):
            left = max(budget, left - min(step, left // 2))
            found.append(left)
        if left == budget:
            return tuple(found)
    return None


def geometric(encoder: Encoder, budget: int) -> Schedule | None:
    """The same share of the patches less after every block, at most half of those there are.

    >>> geometric(Encoder(16, (4, 4), 1, 2), 4)
    (8, 4)
    """
    return _by_share(encoder, budget, tuple(range(encoder.blocks)), halves=True)


def staged(encoder: Encoder, budget: int) -> Schedule | None:
    """The same share less at each quarter of the depth: before the 4th, 7th and 10th of 12 blocks.

    >>> staged(Encoder(64, (8, 8), 1, 12), 8)
    (64, 64, 64, 32, 32, 32, 16, 16, 16, 8, 8, 8)
    """
    quarters = {min(round(encoder.blocks * q / 4), encoder.blocks - 1) for q in (1, 2, 3)}
    return _by_share(encoder, budget, tuple(sorted(quarters)), halves=False)


def at_once(encoder: Encoder, budget: int, block: int) -> Schedule:
    """All of it after one block.

    >>> at_once(Encoder(16, (4, 4), 1, 3), 4, 1)
    (16, 4, 4)
    """
    return tuple(budget if b >= block else encoder.n_tokens for b in range(encoder.blocks))


def _by_share(
    encoder: Encoder, budget: int, at: tuple[int, ...], *, halves: bool
) -> Schedule | None:
    n, left, found = encoder.n_tokens, encoder.n_tokens, []
    for block in range(encoder.blocks):
        if block in at:
            step = at.index(block) + 1
            wanted = round(n * (budget / n) ** (step / len(at)))
            least = left - left // 2 if halves else 1
            left = min(left, max(budget, least, wanted))
        found.append(left)
    return tuple(found) if left == budget else None
