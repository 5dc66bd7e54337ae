"""What PyTorch itself leaves open, and that the gate holds everything else end to end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from edgetok import names
from edgetok.export.cases import Case
from edgetok.export.parity.gate import Expected, FlavourCheck, Ledgers
from edgetok.export.parity.ledger import LIMITS, Ledger
from edgetok.export.parity.undecided import is_as_open, nudged_features, nudged_pictures


def reference_of(border: float) -> Any:
    """Keeps patch 1 of pictures brighter than `border`, else patch 0."""

    def compress(seen: dict[str, torch.Tensor], _budget: int) -> dict[str, torch.Tensor]:
        kept = (seen["pixels"].mean() > border).long().reshape(1)
        return {names.KEPT: kept, names.VISUAL_TOKENS: torch.zeros(1, 2)}

    return SimpleNamespace(
        look=lambda case, _budget: {"pixels": case.pixels},
        compress=compress,
        embed=lambda *_: torch.zeros(1, 1, 2),
        parts=SimpleNamespace(text=SimpleNamespace(stop_ids=())),
    )


CASE = Case(b"", ".png", "?", torch.ones(1, 3, 2, 2), [], [], range(0))


def keep(reference: Any, case: Case) -> Any:
    return reference.compress(reference.look(case, 1), 1)[names.KEPT].numpy()


@pytest.mark.parametrize(("border", "open_choice"), [(1.0, True), (0.99, False)])
def test_a_choice_is_open_if_millionths_of_a_pixel_turn_it(
    border: float, open_choice: bool
) -> None:
    reference = reference_of(border)
    kept, pictures = keep(reference, CASE), nudged_pictures(reference, CASE, 1)
    assert is_as_open(reference, pictures, 1, kept, 1 - kept) is open_choice


def test_a_graph_that_keeps_little_of_it_is_not_excused() -> None:
    """PyTorch wavers at one of four tokens; a graph that has none of them is wrong."""
    first = np.array([0, 1, 2, 3])

    def compress(seen: dict[str, torch.Tensor], _budget: int) -> dict[str, torch.Tensor]:
        last = 3 if bool(seen["features"].mean() > 1) else 4
        return {names.KEPT: torch.tensor([0, 1, 2, last])}

    reference: Any = SimpleNamespace(compress=compress)
    seen = {names.FEATURES: torch.ones(4, 2)}
    for got, excused in (([0, 1, 2, 9], True), ([5, 6, 7, 8], False)):
        pictures = nudged_features(seen)
        assert is_as_open(reference, pictures, 4, first, np.array(got)) is excused


@pytest.mark.parametrize(("border", "passes"), [(1.0, True), (0.99, False)])
def test_the_chain_is_held_to_choices_that_are_not_open(border: float, passes: bool) -> None:
    reference, ledgers = reference_of(border), Ledgers(*(Ledger(LIMITS["fp32"]) for _ in range(3)))
    kept = keep(reference, CASE)
    other = {names.KEPT: 1 - kept, names.VISUAL_TOKENS: np.zeros((1, 2), np.float32)}
    runner: Any = SimpleNamespace(run=lambda *_: other, answer=lambda *_, **__: (None, [1, 2]))
    cache = SimpleNamespace(reference=lambda *_: reference, held=lambda *_: reference)
    subject: Any = SimpleNamespace(parts=None, method=None, cache=cache)
    check = FlavourCheck(subject, "ort", runner, ledgers)
    check._check_chain(CASE, {}, Expected(kept, [1, 2]), 1)
    assert all(found.passed for found in ledgers.chain.checks()) is passes
