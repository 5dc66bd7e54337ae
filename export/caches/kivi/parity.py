"""The check of what the bytes of a KIVI cache hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgetok import names
from edgetok.export.caches.kivi.reference import GroupCache
from edgetok.export.parity.ledger import Ledger
from edgetok.export.parity.sessions import GraphRunner

Array = npt.NDArray[Any]


def compare_rows(
    ledger: Ledger, sessions: GraphRunner, cache: GroupCache, layer: int, budget: int
) -> None:
    """The rows of a layer as the bytes hold them, against those of PyTorch."""
    held, ring = cache.layers[layer], sessions.ring
    cache.round_values(layer, held.values.shape[2] - ring)  # the one that left in the last step
    for kind, want in (("key", held.keys), ("value", held.values)):
        wanted, count = want[0].numpy(), cache.rounded[kind].get(layer, 0)
        waiting = sessions.buffer(names.buffer_name("past", f"ring_{kind}", layer))[0]
        last = np.arange(count, wanted.shape[1]) % ring
        packed = _unpack_keys if kind == "key" else _unpack_values
        rows = np.concatenate([packed(sessions, layer)[:, :count], waiting[:, last]], 1)
        ledger.compare(names.FLUSH, budget, f"past_{kind}_{layer}", rows, wanted)


def _unpack_keys(sessions: GraphRunner, layer: int) -> Array:
    """Rows [G, C, H] of all groups."""
    packed, least, step = _parts(sessions, "key", layer)
    least, step = (np.repeat(part, sessions.ring, axis=1) for part in (least, step))
    return np.asarray(_levels(packed, sessions.head_dim) * step + least, np.float32)


def _unpack_values(sessions: GraphRunner, layer: int) -> Array:
    """Rows [G, C, H], whose ranges lie one after another."""
    packed, least, step = _parts(sessions, "value", layer)
    ranges = packed.reshape(*least.shape, -1)
    levels = _levels(ranges, sessions.head_dim // least.shape[-1])
    rows = np.asarray(levels * step[..., None] + least[..., None], np.float32)
    return rows.reshape(*packed.shape[:2], -1)


def _parts(sessions: GraphRunner, kind: str, layer: int) -> list[Array]:
    kinds = (kind, f"{kind}_least", f"{kind}_step")
    return [sessions.buffer(names.buffer_name("past", each, layer))[0] for each in kinds]


def _levels(packed: Array, channels: int) -> Array:
    """Bytes [..., b] as so many levels; a byte's digits are channels i, i + channels / n, …."""
    digits = channels // packed.shape[-1]
    top = 2 ** (8 // digits)
    numbers = packed.astype(np.int64) + 128
    return np.concatenate([numbers // top**place % top for place in range(digits)], -1)
