"""The check of a ThinK cache: the channels that a prompt chose, and steps over a whole ring."""

from __future__ import annotations

from edgetok import names
from edgetok.export.caches.think.reference import ThinkReference
from edgetok.export.parity.ledger import Ledger
from edgetok.export.parity.prompt import Prompt
from edgetok.export.parity.sessions import GraphRunner

BEYOND = 2  # steps after the first that reads no key of the prompt whole


def check_pruned(
    ledger: Ledger, reference: ThinkReference, sessions: GraphRunner, prompt: Prompt
) -> None:
    """Follow a prompt until all its keys are pruned, as far as there is room."""
    budget, rows = prompt.budget, prompt.rows
    got = sessions.begin(budget, rows)
    want = reference.begin(
        prompt.embeds,
        range(0),
        lambda layer: sessions.buffer(names.buffer_name("past", "channels", layer))[0],
    )
    ledger.compare("prefill", budget, names.LOGITS, got, want.numpy())
    vocabulary = reference.text.vocabulary
    for step in range(min(sessions.ring + BEYOND, reference.slots - len(rows))):
        token = (step + 1) * 7919 % vocabulary  # from all over it
        got, want = sessions.step(token), reference.step(token)
        ledger.compare("decode", budget, names.LOGITS, got, want.numpy())
    for share in reference.agreement:
        ledger.record("prefill", budget, "channels", "kept", share, min)
    reference.agreement.clear()
