"""The check of TidalDecode: which rows each step reads, and what it makes of them."""

from __future__ import annotations

import torch

from edgetok import names
from edgetok.export.caches.tidaldecode.reference import TidalReference
from edgetok.export.parity.cache import Stored
from edgetok.export.parity.ledger import Ledger
from edgetok.export.parity.prompt import Prompt
from edgetok.export.parity.sessions import GraphRunner

STEPS = 12  # before a chunk, and after it


def check_reads(
    ledger: Ledger,
    reference: TidalReference,
    sessions: GraphRunner,
    prompt: Prompt,
    stored: Stored,
) -> None:
    """Follow a prompt through steps, a chunk of text of each size, and steps."""
    reference.rounding = stored.rounding()
    try:
        for width in sessions.chunk_sizes:
            _follow(ledger, reference, sessions, prompt, width)
    finally:
        reference.rounding = None
        reference.agreement.clear()


def _follow(
    ledger: Ledger, reference: TidalReference, sessions: GraphRunner, prompt: Prompt, width: int
) -> None:
    budget = prompt.budget
    embeds = prompt.embeds[:, : sessions.room_for(budget) - width - 1]
    got = sessions.begin(budget, embeds[0].numpy(), prompt.start)
    want = reference.begin(embeds, range(0))
    ledger.compare("prefill", budget, names.LOGITS, got, want.numpy())
    left = sessions.room_for(budget) - embeds.shape[1] - width
    steps = min(STEPS, left // 2)
    _take_steps(ledger, reference, sessions, int(got.argmax()), steps, budget)
    ids = torch.arange(width) * 7919 % reference.text.vocabulary
    chunk = reference.text.embed(ids).detach()
    got, want = sessions.put(chunk.numpy()), reference.put(chunk[None])
    ledger.compare(names.EXTEND, None, names.LOGITS, got, want.numpy())
    _take_steps(ledger, reference, sessions, int(got.argmax()), min(STEPS, left - steps), budget)
    for share in reference.agreement:
        ledger.record("decode", budget, names.DECODE_READ, "kept", share, min)


def _take_steps(
    ledger: Ledger,
    reference: TidalReference,
    sessions: GraphRunner,
    token: int,
    steps: int,
    budget: int,
) -> None:
    for _ in range(steps):
        got = sessions.step(token)
        want = reference.step(token, lambda number: sessions.read[number])
        ledger.compare("decode", budget, names.LOGITS, got, want.numpy())
        token = int(got.argmax())
