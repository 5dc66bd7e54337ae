"""How a store's buffers are described."""

from __future__ import annotations

from typing import Literal

Place = tuple[str, list[int]]  # dtype and shape
Filing = Literal["none", "groups", "tiers"]  # see `bundle.manifest.KvCache`
