"""The gate for a ThinK cache: the channels that a prompt chose, and steps over a whole ring."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from edgetok import names
from edgetok.export.caches.think.reference import PrunedReference
from edgetok.export.parity.sessions import GraphRunner

if TYPE_CHECKING:
    from edgetok.export.parity.gate import Ledger

BEYOND = 2  # steps behind the first that reads no key of the prompt whole


def prove_pruned(
    ledger: Ledger, reference: PrunedReference, runner: GraphRunner, embeds: Tensor, budget: int
) -> None:
    """Follow a prompt [1, n, D] until all its keys are pruned, as far as there is room."""
    got = runner.begin(budget, embeds[0].numpy())
    want = reference.begin(
        embeds, range(0), lambda layer: runner.buffer(names.part("past", "channels", layer))[0]
    )
    ledger.compare("prefill", budget, names.LOGITS, got, want.numpy())
    vocabulary = reference.text.vocabulary
    for step in range(min(runner.ring + BEYOND, reference.shape.slots - embeds.shape[1])):
        token = (step + 1) * 7919 % vocabulary  # from all over it
        got, want = runner.step(token), reference.step(token)
        ledger.compare("decode", budget, names.LOGITS, got, want.numpy())
    for share in reference.agreement:
        ledger.record("prefill", budget, "channels", "kept", share, min)
    reference.agreement.clear()
