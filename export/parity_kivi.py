"""The gate for a KIVI cache: every step over more than a whole ring, and what is in the bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from edgetok import names
from edgetok.export.reference_kivi import GroupCache, KiviReference
from edgetok.export.reference_zipcache import ZipReference
from edgetok.export.runner import Array, GraphRunner

if TYPE_CHECKING:
    from edgetok.export.parity import Ledger

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
    cache = None
    if isinstance(reference, KiviReference):
        want, cache = reference.follow_steps(embeds, ids)
    else:
        want = reference.follow_steps(embeds, ids)
    got = [runner.begin(budget, embeds[0].numpy()), *(runner.step(token) for token in ids)]
    ledger.compare("prefill", budget, names.LOGITS, got[0], want[0].numpy())
    for given, wanted in zip(got[1:], want[1:], strict=True):
        ledger.compare("decode", budget, names.LOGITS, given, wanted.numpy())
    for layer in range(0 if cache is None else len(reference.parts.text.layers)):
        assert cache is not None  # noqa: S101
        _compare_rows(ledger, runner, cache, layer, budget)


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
