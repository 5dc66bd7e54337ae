"""The check of a cache whose ring is packed: every step over more than a whole ring, and its bytes.

A row that lies between two levels may be rounded to either, and at 2 bits that is a third of its
range. So PyTorch takes over what waits in the graphs' ring before it is packed, once both were
compared: what each makes of it can then be held to the same limits as everything else.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from edgetok import names
from edgetok.export.parity.ledger import Ledger
from edgetok.export.parity.prompt import Prompt
from edgetok.export.parity.sessions import GraphRunner

Array = npt.NDArray[Any]
BEYOND = 2  # steps after the ring's first flush


class Rows(Protocol):
    """PyTorch's rows of one answer: `KiviRows` or `ZipRows`."""

    def begin(self, embeds: Tensor) -> Tensor: ...
    def step(self, token: int) -> Tensor: ...
    @property
    def is_full(self) -> bool: ...
    def waiting(self, layer: int) -> dict[str, Array]: ...
    def take_over(self, layer: int, waiting: dict[str, Array]) -> None: ...


def check_ring(
    ledger: Ledger, rows: Rows, sessions: GraphRunner, prompt: Prompt, slots: int, layers: int
) -> None:
    """Follow a prompt until a ring was packed, as far as there is room."""
    budget = prompt.budget
    steps = min(sessions.ring + BEYOND, slots - len(prompt.rows))
    got, want = sessions.begin(budget, prompt.rows), rows.begin(prompt.embeds)
    ledger.compare("prefill", budget, names.LOGITS, got, want.numpy())
    vocabulary = want.shape[-1]
    for step in range(1, steps + 1):
        for layer in range(layers) if rows.is_full else ():
            _take_over(ledger, sessions, rows, layer, budget)
        token = step * 7919 % vocabulary  # from all over it
        got, want = sessions.step(token), rows.step(token)
        ledger.compare("decode", budget, names.LOGITS, got, want.numpy())


def _take_over(ledger: Ledger, sessions: GraphRunner, rows: Rows, layer: int, budget: int) -> None:
    """Compare what waits in a full ring; PyTorch goes on with what the graphs have there."""
    held = {}
    for kind, want in rows.waiting(layer).items():
        part = names.buffer_name("past", f"ring_{kind}", layer)
        held[kind] = np.asarray(sessions.buffer(part)[0])
        ledger.compare(names.FLUSH, budget, part, held[kind], want)
    rows.take_over(layer, held)
