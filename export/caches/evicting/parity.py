"""The gate for a cache of constant size: every step and every choice against a list of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from edgetok import names
from edgetok.export.caches.evicting.reference import CacheReference, Rounding
from edgetok.export.caches.plain.reference import SlotRounding
from edgetok.export.parity.sessions import Array, GraphRunner
from edgetok.kv.policy import SCORE

if TYPE_CHECKING:
    from edgetok.export.parity.gate import Ledger

STEPS = 12  # after a prompt as it is; the long one goes on until every layer was emptied
BEYOND = 3  # steps behind that
MOST_STEPS = 400  # of the long prompt: some seconds of the list of rows


def prove_cache(
    ledger: Ledger,
    reference: CacheReference,
    runner: GraphRunner,
    embeds: Tensor,
    visual: range,
    budget: int,
    *,
    long: bool,
) -> None:
    """Follow a prompt [1, n, D] through prefill, decode and, if `long`, compaction.

    A long prompt fills the rung: its rows come again until there are as many.
    """
    if runner.scales is not None:  # with a policy, a prompt is rounded once it was attended to
        kind = SlotRounding if runner.in_slots else Rounding
        reference.rounding = kind(runner.scales, runner.bits, prompt=runner.room is None)
    try:
        _follow(ledger, reference, runner, embeds, visual, budget, long)
    finally:
        reference.rounding = None


def _follow(
    ledger: Ledger,
    reference: CacheReference,
    runner: GraphRunner,
    embeds: Tensor,
    visual: range,
    budget: int,
    long: bool,
) -> None:
    if long:
        rows = runner.prompt_rows(budget)
        embeds = embeds.repeat(1, -(-rows // embeds.shape[1]), 1)[:, :rows]
    got = runner.begin(budget, embeds[0].numpy(), visual.start)
    want = reference.begin(embeds, visual, lambda layer: _kept(runner, reference, layer))
    ledger.compare("prefill", budget, names.LOGITS, got, want.numpy())
    for _ in range(_steps(reference, embeds.shape[1], long)):
        token = int(got.argmax())
        runner.compact()
        want = reference.step(token, lambda layer: _kept(runner, reference, layer))
        got = runner.step(token)
        ledger.compare("decode", budget, names.LOGITS, got, want.numpy())
    for layer in range(len(reference.rows)):
        keys = reference.keys(layer)
        held = runner.keys(layer)[:, : keys.shape[1]]
        ledger.compare(names.COMPACT, budget, names.past_key(layer), held, keys)
    for share in reference.agreement:
        ledger.record(names.COMPACT, budget, names.KEPT, "kept", share, min)


def _steps(reference: CacheReference, rows: int, long: bool) -> int:
    """How many steps to follow; no more than positions go on."""
    room, steps = reference.room, STEPS
    if long:
        left = [n - len(held[0]) for n, held in zip(room.slots, reference.rows, strict=True)]
        steps = min(max(left) + BEYOND, MOST_STEPS)
    if room.policy.positions == "renumbered":
        return steps
    return min(steps, reference.text.max_positions - rows)


def _kept(runner: GraphRunner, reference: CacheReference, layer: int) -> Array:
    """Marks [G, keep, …] of the rows of a layer which was emptied just now."""
    keep, policy = reference.room.keep[layer], reference.policy
    if policy.mixers:
        scores = runner.buffer(names.past_state(layer))[policy.planes.index(SCORE)]
        return np.asarray(scores[:, :keep, None])
    return np.asarray(runner.keys(layer)[:, :keep])


def visual_rows(before: int, budget: int) -> range:
    """Where the visual rows of a prompt lie."""
    return range(before, before + budget)
