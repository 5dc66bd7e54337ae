"""How a store and its buffers are described."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Place = tuple[str, list[int]]  # dtype and shape
Filing = Literal["none", "groups", "tiers"]  # see `bundle.manifest.KvCache`


@dataclass(frozen=True, slots=True)
class Store:
    """Of a store with a paper, what lists show.

    Args:
        names: as `--kv` takes them.
        differs: how it differs from the program that the paper's authors published.
    """

    names: tuple[str, ...]
    paper: str
    summary: str
    differs: str
