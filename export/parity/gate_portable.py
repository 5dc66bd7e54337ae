"""The gate for the `portable` flavour: its graphs in ONNX Runtime against PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from torch import Tensor

from edgetok.bundle.manifest import Precision
from edgetok.export.caches.evicting.parity import visual_rows
from edgetok.export.caches.plain.reference import SlotReference
from edgetok.export.caches.ring_options import RINGED
from edgetok.export.cases import Case
from edgetok.export.lowering.rounding import hold_portable
from edgetok.export.parity.extend import prove_extend
from edgetok.export.parity.gate import (
    LIMITS,
    UNROUNDED,
    Check,
    Ledger,
    embed_case,
    expect_all,
    limits_of,
    made_case,
    prove_chain,
    prove_compress,
    prove_decoder,
    prove_vision,
)
from edgetok.export.parity.prompt_reduced import prove_prefill
from edgetok.export.parity.sessions import GraphRunner
from edgetok.export.reference.model import Reference
from edgetok.export.reference.prompt_reduced import PrefillReference
from edgetok.kv.stores.slots import BITS
from edgetok.ladder import Ladder
from edgetok.prefill import Prefill


def prove_portable(
    reference: Reference,
    runner: GraphRunner,
    ladder: Ladder,
    cases: Sequence[Case],
    precision: Precision,
    scales: list[tuple[Tensor, Tensor]] | None,
    prefill: Prefill | None = None,
) -> list[Check]:
    """Compare the portable graphs in ONNX Runtime with PyTorch, on the same rounded weights.

    Its weights and its cache have scales of their own, so this comes before `prove` rounds the
    reference, and of a cache of few bits PyTorch holds the same rounded rows.
    """
    weights, kv = precision.weights, precision.kv
    vision = Ledger(limits_of(Precision(weights=weights, kv="fp32")))
    rounded = weights == "fp32" and kv not in UNROUNDED
    decoder = Ledger(LIMITS["slots"] if rounded else vision.limits)
    chain = Ledger(limits_of(precision))
    expected = [expect_all(reference, case, ladder, prefill) for case in cases]
    in_slots = SlotReference(reference, scales, BITS.get(kv, 8))
    held = reference if kv in RINGED else in_slots  # one with a ring rounds by itself
    one_tower = reference.method.inside is None
    with hold_portable(reference.parts, weights, scales):
        for case, answers in zip(cases, expected, strict=True):
            prompt = runner.read_prompt([*case.before, *case.after], case.question)
            for budget, answer in zip(ladder.budgets, answers, strict=True):
                if not one_tower or budget == ladder.smallest.budget:
                    want, got, followed = prove_vision(vision, reference, runner, case, budget)
                prove_compress(vision, reference, runner, want, budget)
                embeds = embed_case(reference, case, want, budget)
                visual = visual_rows(len(case.before), budget)
                made = made_case(reference, want, budget)
                if prefill is None:
                    prove_decoder(decoder, held, runner, embeds, visual, budget, made)
                else:
                    text, store = reference.parts.text, in_slots.store
                    reduced = PrefillReference(text, prefill, budget, store)
                    start = visual.start
                    followed &= prove_prefill(decoder, reduced, runner, embeds, start, budget)
                if runner.extends:
                    prove_extend(
                        *(decoder, held, runner, embeds, visual.start, budget, made),
                        by_steps=scales is not None,
                    )
                if followed:
                    prove_chain(chain, reference, runner, case, got | prompt, answer, budget)
    checks = [check for ledger in (vision, decoder, chain) for check in ledger.checks()]
    return [msgspec.structs.replace(c, stage=f"portable {c.stage}") for c in checks]
