"""How far two greedy answers go together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from edgetok import names
from edgetok.export.parity.ledger import Ledger

PARITY_TOKENS = 12  # greedy tokens compared per case


def agreement(got: Sequence[int], want: Sequence[int]) -> float:
    """Share of greedy tokens before the first difference.

    >>> agreement([5, 7, 2], [5, 9, 2])
    0.3333333333333333
    """
    return _common_prefix(got, want) / max(len(got), len(want))


def _common_prefix(got: Sequence[int], want: Sequence[int]) -> int:
    return next(
        (i for i, (a, b) in enumerate(zip(got, want, strict=False)) if a != b),
        min(len(got), len(want)),
    )


def common_steps(got: Sequence[int], want: Sequence[int]) -> int:
    """Steps whose logits follow the same tokens: one more than the tokens in common."""
    return min(_common_prefix(got, want) + 1, len(got), len(want))


def compare_steps(
    ledger: Ledger, budget: int, got: tuple[Any, Sequence[int]], want: tuple[Tensor, Sequence[int]]
) -> None:
    """Logits [steps, W] of two greedy answers, as far as both follow the same ids."""
    (logits, ids), (wanted, wanted_ids) = got, want
    for step in range(common_steps(ids, wanted_ids)):
        stage = "decode" if step else "prefill"
        ledger.compare(stage, budget, names.LOGITS, logits[step], wanted[step].numpy())
