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
    held, count = cache.layers[layer], cache.rounded[layer]
    for kind, want in (("key", held.keys), ("value", held.values)):
        part, wanted = f"past_{kind}_{layer}", want[0].numpy()
        packed = _unpacked(sessions, kind, layer)[:, :count]
        waiting = sessions.buffer(names.buffer_name("past", f"ring_{kind}", layer))[0]
        rows = np.concatenate([packed, waiting[:, : wanted.shape[1] - count]], 1)
        ledger.compare(names.FLUSH, budget, part, rows, wanted)


def _unpacked(sessions: GraphRunner, kind: str, layer: int) -> Array:
    """Rows [G, C, H] of all groups; a byte's digits are channels i, i + H / n, …."""
    packed = sessions.buffer(names.buffer_name("past", kind, layer))[0].astype(np.int64) + 128
    least = sessions.buffer(names.buffer_name("past", f"{kind}_least", layer))[0]
    step = sessions.buffer(names.buffer_name("past", f"{kind}_step", layer))[0]
    digits = sessions.head_dim // packed.shape[-1]
    top = 2 ** (8 // digits)
    levels = np.concatenate([packed // top**place % top for place in range(digits)], -1)
    if kind == "key":
        least, step = (np.repeat(part, sessions.ring, axis=1) for part in (least, step))
    return np.asarray(levels * step + least, np.float32)
