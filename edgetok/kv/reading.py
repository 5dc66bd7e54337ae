"""What a decode step reads of a cache that gives up no row.

A reading is asked for like a policy (`--kv-policy`), but takes nothing from the cache: a few layers
look at all rows and choose, and those after them read what was chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from edgetok.errors import UsageError

SHARE = 4  # a quarter of the slots is read unless a number is given


@dataclass(frozen=True, slots=True)
class Reading:
    """Which layers look at all rows, and choose for those after them.

    Args:
        name, paper, summary: as lists show them.
        differs: how it differs from the program that the paper's authors published.
        selects: layers that choose, ascending, from the number of layers; none if it is too small.
    """

    name: str
    paper: str
    summary: str
    differs: str
    selects: Callable[[int], tuple[int, ...]]
    positions: Literal["kept"] = "kept"


@dataclass(frozen=True, slots=True)
class Reads:
    """Constants of a reading in one model.

    Args:
        count: rows that a layer reads, if it does not read all.
        selects: layers that read all rows and choose; so do those before the first.
    """

    reading: Reading
    count: int
    selects: tuple[int, ...]


def make_reads(reading: Reading, count: int | None, slots: int, layers: int) -> Reads:
    """Rows that are read, a quarter of the slots if `count` is None, and layers that choose.

    Raises:
        UsageError: if no layer would read less than all, or more rows are wanted than there can be.
    """
    selects = reading.selects(layers)
    if not selects:
        raise UsageError(
            f"{reading.name} needs layers behind one that chooses and this decoder has {layers} "
            "layers; use --kv-policy none"
        )
    if count is not None and count > slots:
        raise UsageError(
            f"{count} rows to read are more than the {slots} slots of the cache; lower --kv-reads "
            "or use --kv-policy none, which reads all"
        )
    return Reads(reading, max(1, slots // SHARE) if count is None else count, selects)
