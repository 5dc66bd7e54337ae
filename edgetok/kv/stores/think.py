"""ThinK (arXiv 2407.21018): keys without the channels that questions hardly use.

Which channels stay is decided per head from the last queries of the prompt and all its keys. The
last rows keep every channel, in a ring where row n is in slot n mod R; a row that leaves it is
pruned like those of the prompt. Exact: how many channels stay is a constant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgetok.kv.stores.buffers import Filing, Place, Store

if TYPE_CHECKING:
    from torch import Tensor

WINDOW = 32  # last queries that are asked
NAME = "think"
RING_ROWS = 32  # last keys that are whole, as in the released code
PRUNED, OF = 2, 5  # two channels of five go, as in the released code
STORE = Store(
    names=(NAME,),
    paper="arXiv 2407.21018",
    summary="keys without the channels that questions hardly use, the last ones and values whole",
    differs="nothing where a query head has keys of its own; else a group's heads choose together",
)


def count_channels(head_dim: int) -> int:
    """How many channels of so many stay unless a number is given.

    >>> count_channels(64)
    39
    """
    return head_dim - PRUNED * head_dim // OF


@dataclass(frozen=True)
class ThinkShape:
    """Constants of a ThinK cache.

    Args:
        slots: rows that a layer can hold.
        ring: last rows whose keys are whole, fewer than `slots`.
        channels: that the other keys keep.
    """

    layers: int
    kv_heads: int
    head_dim: int
    slots: int
    channels: int
    ring: int = RING_ROWS

    filing: ClassVar[Filing] = "none"  # what the host does with a full ring
    written = ("key", "value", "ring_key")  # what a step writes
    waiting = ()  # nothing waits to be packed: each step prunes the key that leaves the ring

    @property
    def pruned_rows(self) -> int:
        """Rows of pruned keys."""
        return max(1, self.slots - self.ring)

    @property
    def buffers(self) -> dict[str, Place]:
        """Every buffer of one layer: dtype and shape by the part of it that it holds."""
        return {
            "key": ("float32", [1, self.kv_heads, self.pruned_rows, self.channels]),
            "value": ("float32", [1, self.kv_heads, self.slots, self.head_dim]),
            "ring_key": ("float32", [1, self.kv_heads, self.ring, self.head_dim]),
            "channels": ("int32", [1, self.kv_heads, self.channels]),
        }

    @property
    def group(self) -> dict[str, Place]:
        """What a full ring becomes: nothing, there is no flush."""
        return {}


def choose_channels(queries: Tensor, keys: Tensor, keep: int) -> Tensor:
    """Channels of the largest product of mean squares, ascending: int64 [1, G, keep].

    Args:
        queries: float32 [1, heads, w, H], rotated; the heads of a group count alike.
        keys: float32 [1, G, S, H], rotated.
    """
    import torch

    groups, head_dim = keys.shape[1], keys.shape[3]
    asked = queries.reshape(1, groups, -1, head_dim).square().mean(2)
    importance = asked * keys.square().mean(2)
    return torch.topk(importance, keep, dim=-1).indices.sort(-1).values


def prune(keys: Tensor, channels: Tensor) -> Tensor:
    """Keys [1, G, S, H] without the other channels: [1, G, S, keep]."""
    rows = keys.shape[2]
    return keys.gather(3, channels.unsqueeze(2).expand(-1, -1, rows, -1))


def score(query: Tensor, pruned: Tensor, channels: Tensor, recent: Tensor) -> tuple[Tensor, Tensor]:
    """Products of one query per head with pruned keys, and with recent ones.

    Args:
        query: float32 [1, heads, 1, H], scaled.
        pruned: [1, G, S, keep].
        channels: int64 [1, G, keep].
        recent: [1, G, R, H], with all channels.

    Returns:
        float32 [1, heads, 1, S] and [1, heads, 1, R].
    """
    heads, groups = query.shape[1], pruned.shape[1]
    rows = query.reshape(1, groups, heads // groups, -1)
    picked = rows.gather(3, channels.unsqueeze(2).expand(-1, -1, heads // groups, -1))
    pairs = ((picked, pruned), (rows, recent))
    of_pruned, of_recent = (
        (asking @ keys.transpose(2, 3)).reshape(1, heads, 1, -1) for asking, keys in pairs
    )
    return of_pruned, of_recent


def put_row(
    region: Tensor, ring: Tensor, channels: Tensor, key: Tensor, count: Tensor
) -> tuple[Tensor, Tensor]:
    """Let a key [1, G, 1, H] into the ring and the one that leaves it into the pruned rows.

    Args:
        region: [1, G, S, keep], pruned.
        ring: [1, G, R, H].
        channels: int64 [1, G, keep].
        count: int64 [1], rows before this one.
    """
    import torch

    rows = ring.shape[2]
    slot = count % rows
    joined = torch.cat([ring, key], dim=2)  # read once, since it may be written in place
    leaving = prune(joined.index_select(2, slot), channels)
    # While the ring fills, nothing leaves: slot 0 is written over when something does.
    place = (count - rows).clamp(min=0).reshape(1, 1, 1, 1)
    region = region.scatter(2, place.expand(leaving.shape), leaving)
    order = torch.arange(rows)
    return region, joined.index_select(2, torch.where(order == slot, rows, order))
