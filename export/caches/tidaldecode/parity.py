"""The gate for TidalDecode: every step, and every row that it read, against a list of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edgetok import names
from edgetok.export.caches.evicting.reference import Rounding
from edgetok.export.caches.plain.reference import SlotRounding
from edgetok.export.caches.tidaldecode.reference import ReadingReference
from edgetok.export.parity.sessions import GraphRunner

if TYPE_CHECKING:
    from edgetok.export.parity.gate import Ledger

STEPS = 12  # behind a prompt, and behind a chunk


def prove_reads(
    ledger: Ledger,
    reference: ReadingReference,
    runner: GraphRunner,
    embeds: Tensor,
    start: int,
    budget: int,
) -> None:
    """Follow a prompt [1, n, D] whose visual rows begin at `start` by steps, a chunk and steps."""
    if runner.scales is not None:  # a portable prompt is rounded once it was attended to
        kind = SlotRounding if runner.in_slots else Rounding
        reference.rounding = kind(runner.scales, runner.bits, prompt=not runner.in_slots)
    try:
        _follow(ledger, reference, runner, embeds, start, budget)
    finally:
        reference.rounding = None


def _follow(
    ledger: Ledger,
    reference: ReadingReference,
    runner: GraphRunner,
    embeds: Tensor,
    start: int,
    budget: int,
) -> None:
    embeds = embeds[:, : runner.room_for(budget) - runner.chunk_rows - 1]
    got = runner.begin(budget, embeds[0].numpy(), start)
    want = reference.begin(embeds, range(0))
    ledger.compare("prefill", budget, names.LOGITS, got, want.numpy())
    left = runner.room_for(budget) - embeds.shape[1] - runner.chunk_rows
    steps = min(STEPS, left // 2)
    _take_steps(ledger, reference, runner, int(got.argmax()), steps, budget)
    ids = torch.arange(runner.chunk_rows) * 7919 % reference.text.vocabulary
    chunk = reference.text.embed(ids).detach()
    got, want = runner.put(chunk.numpy()), reference.put(chunk[None])
    ledger.compare(names.EXTEND, None, names.LOGITS, got, want.numpy())
    _take_steps(ledger, reference, runner, int(got.argmax()), min(STEPS, left - steps), budget)
    for share in reference.agreement:
        ledger.record("decode", budget, names.DECODE_READ, "kept", share, min)
    reference.agreement.clear()


def _take_steps(
    ledger: Ledger,
    reference: ReadingReference,
    runner: GraphRunner,
    token: int,
    steps: int,
    budget: int,
) -> None:
    for _ in range(steps):
        got = runner.step(token)
        want = reference.step(token, lambda number: runner.read[number])
        ledger.compare("decode", budget, names.LOGITS, got, want.numpy())
        token = int(got.argmax())
