"""The gate for a cache with a ring: every step over more than a whole ring, and its bytes.

A row that lies between two levels may be rounded to either, and at 2 bits that is a third of its
range. So PyTorch takes over what waits in the graphs' ring before it is packed, once both were
compared: what each makes of it can then be held to the same limits as everything else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from edgetok import names
from edgetok.export.caches.kivi.reference import GroupCache, KiviReference, KiviRows
from edgetok.export.caches.zipcache.reference import ZipReference, ZipRows
from edgetok.export.parity.sessions import Array, GraphRunner

if TYPE_CHECKING:
    from edgetok.export.parity.gate import Ledger

BEYOND = 2  # steps behind the ring's first flush


def prove_kivi(
    ledger: Ledger,
    reference: KiviReference | ZipReference,
    runner: GraphRunner,
    embeds: Tensor,
    budget: int,
) -> None:
    """Follow a prompt [1, n, D] until a ring was packed, as far as there is room."""
    steps = min(runner.ring + BEYOND, reference.shape.slots - embeds.shape[1])
    vocabulary = reference.parts.text.vocabulary
    ids = [step * 7919 % vocabulary for step in range(1, steps + 1)]  # from all over it
    rows, layers = reference.begin_rows(), range(len(reference.parts.text.layers))
    got, want = runner.begin(budget, embeds[0].numpy()), rows.begin(embeds)
    ledger.compare("prefill", budget, names.LOGITS, got, want.numpy())
    for token in ids:
        for layer in layers if rows.is_full else ():
            _take_over(ledger, runner, rows, layer, budget)
        got, want = runner.step(token), rows.step(token)
        ledger.compare("decode", budget, names.LOGITS, got, want.numpy())
    if isinstance(rows, KiviRows):
        for layer in layers:
            _compare_rows(ledger, runner, rows.cache, layer, budget)


def _take_over(
    ledger: Ledger, runner: GraphRunner, rows: KiviRows | ZipRows, layer: int, budget: int
) -> None:
    """Compare what waits in a full ring; PyTorch goes on with what the graphs have there."""
    held = {}
    for kind, want in rows.waiting(layer).items():
        part = names.part("past", f"ring_{kind}", layer)
        held[kind] = runner.buffer(part)[0]
        ledger.compare(names.FLUSH, budget, part, held[kind], want)
    rows.take_over(layer, held)


def _compare_rows(
    ledger: Ledger, runner: GraphRunner, cache: GroupCache, layer: int, budget: int
) -> None:
    held, count = cache.layers[layer], cache.rounded[layer]
    for kind, want in (("key", held.keys), ("value", held.values)):
        part, wanted = f"past_{kind}_{layer}", want[0].numpy()
        packed = _unpacked(runner, kind, layer)[:, :count]
        waiting = runner.buffer(names.part("past", f"ring_{kind}", layer))[0]
        rows = np.concatenate([packed, waiting[:, : wanted.shape[1] - count]], 1)
        ledger.compare(names.FLUSH, budget, part, rows, wanted)


def _unpacked(runner: GraphRunner, kind: str, layer: int) -> Array:
    """Rows [G, C, H] of the region; a byte's digits are channels i, i + H / n, …."""
    packed = runner.buffer(names.part("past", kind, layer))[0].astype(np.int64) + 128
    least = runner.buffer(names.part("past", f"{kind}_least", layer))[0]
    step = runner.buffer(names.part("past", f"{kind}_step", layer))[0]
    digits = runner.head_dim // packed.shape[-1]
    top = 2 ** (8 // digits)
    levels = np.concatenate([packed // top**place % top for place in range(digits)], -1)
    if kind == "key":
        least, step = (np.repeat(part, runner.ring, axis=1) for part in (least, step))
    return np.asarray(levels * step + least, np.float32)
