"""The check of a prefill in segments: every exit, and the signals that decide between them."""

from __future__ import annotations

from edgetok import names
from edgetok.export.parity.agreement import PARITY_TOKENS, common_steps
from edgetok.export.parity.ledger import Ledger
from edgetok.export.parity.prompt import Prompt
from edgetok.export.parity.sessions import GraphRunner
from edgetok.export.reference.prompt_reduced import PrefillReference, ReducedAnswer

OPEN = 1e-4  # a signal so near to zero may come out on either side of it in float32


def check_exits(
    ledger: Ledger, reference: PrefillReference, sessions: GraphRunner, prompt: Prompt
) -> bool:
    """Prefill and decode on PyTorch's own rows; whether both leave at the same layer.

    Each exit is taken once, whatever the signals say, and so is none.
    """
    embeds, start, budget = prompt.embeds, prompt.start, prompt.budget
    stop_ids = reference.text.stop_ids
    for leave in (*reference.exits, len(reference.counts)):
        want = reference.answer(embeds, start, PARITY_TOKENS, leave=leave)
        logits, ids = sessions.answer(budget, prompt.rows, PARITY_TOKENS, stop_ids, start, leave)
        for step in range(common_steps(ids, want.ids)):
            stage = f"{'decode' if step else 'prefill'} leaving at {leave}"
            ledger.compare(stage, budget, names.LOGITS, logits[step], want.logits[step].numpy())
    want = reference.answer(embeds, start, 1)
    sessions.begin(budget, prompt.rows, start)
    for layer in sessions.signals.keys() & want.signals.keys():
        size = max(1.0, abs(want.signals[layer]) / 10)  # as `Ledger.compare` counts
        distance = abs(sessions.signals[layer] - want.signals[layer]) / size
        ledger.record("prefill", budget, names.EXIT_SIGNAL, "max_abs", distance, max)
    same = sessions.left == want.left
    exact = ledger.limits.kept is not None
    if not same and exact and _is_open(sessions, want):
        ledger.record("prefill", budget, names.EXIT_SIGNAL, "decided", 0.0, min)
    else:
        ledger.record("prefill", budget, names.EXIT_SIGNAL, "kept", float(same), min)
    return same


def _is_open(sessions: GraphRunner, want: ReducedAnswer) -> bool:
    """Whether the signal at which both part is too near to zero to tell."""
    return abs(want.signals[min(sessions.left, want.left)]) < OPEN
