"""MustDrop, spatial merging (arXiv 2411.10803): uniform windows become one token at the start.

Reads behind the first block: its rows [N, V].

The grid is cut into windows of 3 x 3 patches. Those whose patches have the highest mean cosine
with each other become one token each, their plain mean. Patches beside the last whole window stay.
Attention does not know sizes, as in the reference; sizes sum to N.

Order: merged windows, then the other patches, both in raster order.

Frozen form: fixed budget. The paper merges every window above a similarity of 0.8; here a constant
number of the most uniform, so that K is N less a multiple of 8. Its key set and its cuts inside the
language model are not part of this.
"""

from __future__ import annotations

from edgetok import tokens
from edgetok.methods.inside import Inside
from edgetok.methods.method import method_inside
from edgetok.tokens.schedules import Encoder, Schedule, at_once

SIDE = 3


def reduce(look: tokens.Look, keep: int) -> tokens.Plan:
    n = look.patches.shape[0]
    windows = tokens.square_windows(look.encoder.grid, SIDE)
    alike = tokens.window_likeness(look.patches, windows)
    groups, centres = tokens.merge_windows(alike, windows, (n - keep) // (SIDE * SIDE - 1), n)
    plan = tokens.merge_groups(groups, centres, look.patch_sizes)
    return tokens.behind_prefix(plan, look.sizes, look.prefix)


def schedule(encoder: Encoder, budget: int) -> Schedule | None:
    """N less 8 for each merged window, behind the first block.

    >>> schedule(Encoder(16, (4, 4), 1, 2), 8)
    (8, 8)
    """
    windows = (encoder.grid[0] // SIDE) * (encoder.grid[1] // SIDE)
    merged, rest = divmod(encoder.n_tokens - budget, SIDE * SIDE - 1)
    return at_once(encoder, budget, 0) if rest == 0 and 0 < merged <= windows else None


METHOD = method_inside(
    name="mustdrop-windows",
    paper="arXiv 2411.10803",
    needs=(),
    verdict="fixed-budget",
    summary="merges the most uniform 3 x 3 windows behind the first block",
    inside=Inside(reduce, schedule, place="after block"),
    differs="a constant number; merged windows stand in the raster, theirs by similarity",
)
