"""The last R rows of a cache, held apart: row n is in slot n mod R."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def rows_of_slots(last: Tensor, ring: int) -> Tensor:
    """The number of the row in each slot, int64 [R], where `last` [1] came last; some negative.

    A negative number is a slot that no row came to yet.
    """
    import torch

    return last - (last - torch.arange(ring)) % ring


def take_last(rows: Tensor, last: Tensor, ring: int) -> Tensor:
    """Of rows [1, G, S, H] the last R as the ring holds them, zeros where there are fewer.

    Args:
        last: int64 [1], the last row that is true.
    """
    import torch

    held = rows_of_slots(last, ring)
    picked = rows.index_select(2, held.clamp(min=0, max=rows.shape[2] - 1))
    return torch.where((held >= 0)[:, None], picked, 0.0)


def put_last(ring: Tensor, row: Tensor, count: Tensor) -> Tensor:
    """The ring [1, G, R, H] with the row [1, G, 1, H] that is number `count`, int64 [1]."""
    import torch

    here = torch.arange(ring.shape[2]) == count % ring.shape[2]
    return torch.where(here[:, None], row, ring)


def order_scores(packed: Tensor, recent: Tensor, first: Tensor, slots: int) -> Tensor:
    """Numbers of packed rows and of the ring in the order of the rows: [..., slots].

    Args:
        packed: [..., C], of row 0 and the following.
        recent: [..., R], of the ring.
        first: int64 [1], the first row that is read from the ring.
    """
    import torch
    from torch.nn import functional

    padded = functional.pad(packed, (0, slots - packed.shape[-1]))
    times = -(-slots // recent.shape[-1])
    again = torch.cat([recent] * times, -1)[..., :slots]
    return torch.where(torch.arange(slots) < first, padded, again)


def write_row(rows: Tensor, row: Tensor, place: Tensor) -> Tensor:
    """Rows [1, G, C, W] with the row [1, G, 1, W] at `place`, int64 [1].

    By index of head and row, which becomes `ScatterND`: TensorRT scatters bytes by no other.
    """
    import torch

    heads = torch.arange(rows.shape[1])
    return rows.index_put((torch.zeros_like(heads), heads, place.expand(len(heads))), row[0, :, 0])
