"""The check of a cache, step by step, and choice by choice, against a list of rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgetok import names
from edgetok.export.attention import Scales
from edgetok.export.parity.ledger import Ledger
from edgetok.export.parity.prompt import Prompt
from edgetok.export.parity.sessions import Array, GraphRunner
from edgetok.export.reference.cache import CacheReference
from edgetok.export.reference.rows import Rounding
from edgetok.export.reference.slots import SlotRounding
from edgetok.kv.policy import SCORE

STEPS = 12  # after a prompt as it is; the long one goes on until every layer was emptied
BEYOND = 3  # steps after that
MOST_STEPS = 400  # of the long prompt: some seconds of the list of rows


@dataclass(frozen=True)
class Stored:
    """How graphs store rows: in whole numbers of so many bits, or as they are.

    Args:
        scales: per layer key and value scales [1, G, 1, H]; None for float32.
        in_slots: each slot has a scale of its own, beside what `scales` say of channels.
    """

    scales: Scales | None
    bits: int
    in_slots: bool

    def rounding(self) -> Rounding | None:
        """What PyTorch is to make of the same rows."""
        if self.scales is None:
            return None
        kind = SlotRounding if self.in_slots else Rounding
        return kind(self.scales, self.bits)

    def read_keys(self, sessions: GraphRunner, layer: int) -> Array:
        """Keys [G, C, H] of a layer as they are now, float32."""
        keys: Array = sessions.buffer(names.past_key(layer))[0]
        if self.scales is None:
            return keys
        largest = self.scales[layer][0][0].numpy()
        if not self.in_slots:
            if self.bits == 4:  # two channels in a byte, the even one in its low half
                keys = np.stack([keys % 16, keys // 16], -1).reshape(*keys.shape[:2], -1) - 8.0
            return np.asarray(keys * largest, np.float32)
        if self.bits == 4:  # the low half of a byte, plus 8, is a channel of the first half
            high = keys // 16
            keys = np.concatenate([keys - high * 16 - 8, high], axis=-1)
        share = np.maximum(largest / largest.max(-1, keepdims=True), 1e-3)
        scales = sessions.buffer(names.past_key_scale(layer))[0]
        return np.asarray(keys * scales * share, np.float32)


def check_cache(
    ledger: Ledger,
    reference: CacheReference,
    sessions: GraphRunner,
    prompt: Prompt,
    stored: Stored,
    *,
    long: bool = False,
) -> None:
    """Follow a prompt through prefill, decode and, if `long`, compaction.

    A long prompt fills the rung: its rows come again until there are as many.
    """
    reference.rounding = stored.rounding()
    try:
        _follow(ledger, reference, sessions, prompt, stored, long)
    finally:
        reference.rounding = None
        reference.agreement.clear()


def _follow(
    ledger: Ledger,
    reference: CacheReference,
    sessions: GraphRunner,
    prompt: Prompt,
    stored: Stored,
    long: bool,
) -> None:
    embeds, budget = prompt.embeds, prompt.budget

    def kept(layer: int) -> Array:
        return _find_kept(sessions, reference, stored, layer)

    if long:
        rows = sessions.prompt_rows(budget)
        embeds = embeds.repeat(1, -(-rows // embeds.shape[1]), 1)[:, :rows]
    got = sessions.begin(budget, embeds[0].numpy(), prompt.start)
    want = reference.begin(embeds, prompt.visual, kept)
    ledger.compare("prefill", budget, names.LOGITS, got, want.numpy())
    for _ in range(_steps(reference, embeds.shape[1], long)):
        token = int(got.argmax())
        sessions.compact()
        want = reference.step(token, kept)
        got = sessions.step(token)
        ledger.compare("decode", budget, names.LOGITS, got, want.numpy())
    for layer in range(len(reference.rows)):
        keys = reference.keys(layer)
        held = stored.read_keys(sessions, layer)[:, : keys.shape[1]]
        ledger.compare(names.COMPACT, budget, names.past_key(layer), held, keys)
    for share in reference.agreement:
        ledger.record(names.COMPACT, budget, names.KEPT, "kept", share, min)


def _steps(reference: CacheReference, rows: int, long: bool) -> int:
    """How many steps to follow; no more than positions go on."""
    plan, steps = reference.plan, STEPS
    if long:
        left = [n - len(held[0]) for n, held in zip(plan.slots, reference.rows, strict=True)]
        steps = min(max(left) + BEYOND, MOST_STEPS)
    if plan.policy.positions == "renumbered":
        return steps
    return min(steps, reference.text.max_positions - rows)


def _find_kept(
    sessions: GraphRunner, reference: CacheReference, stored: Stored, layer: int
) -> Array:
    """Marks [G, keep, …] of the rows of a layer which was emptied just now."""
    keep, policy = reference.plan.keep[layer], reference.policy
    if policy.mixers:
        scores = sessions.buffer(names.past_state(layer))[policy.row_state.index(SCORE)]
        return np.asarray(scores[:, :keep, None])
    return np.asarray(stored.read_keys(sessions, layer)[:, :keep])
