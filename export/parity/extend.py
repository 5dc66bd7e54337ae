"""The gate for chunks of text that are put behind what the cache holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edgetok import names
from edgetok.export.caches.tidaldecode.reference import ReadingReference
from edgetok.export.parity.sessions import GraphRunner, as_arrays
from edgetok.export.reference.model import Reference

if TYPE_CHECKING:
    from edgetok.export.parity.gate import Ledger


def prove_extend(
    ledger: Ledger,
    reference: Reference,
    runner: GraphRunner,
    embeds: Tensor,
    start: int,
    budget: int,
    made: dict[str, Tensor] | None = None,
    *,
    by_steps: bool = False,
) -> None:
    """A chunk of text behind a prompt [1, n, D] whose visual rows begin at `start`, and a token.

    Where every row stays, PyTorch runs prompt and chunk in one piece; where prefill takes rows
    away, or with `by_steps`, the chunk must do what as many single steps do, which are proved by
    themselves.
    """
    if isinstance(reference.cache, ReadingReference):
        return  # steps read less than a chunk; `edgetok.export.caches.tidaldecode.parity` puts one
    # A prompt that leaves no room for the chunk and one token more gives up its end.
    embeds = embeds[:, : runner.room_for(budget) - runner.chunk_rows - 1]
    ids = _some_ids(reference, runner.chunk_rows)
    tokens = as_arrays(made)
    runner.begin(budget, embeds[0].numpy(), start, made=tokens)
    if runner.reduces or by_steps:
        want = [runner.step(int(token)) for token in ids][-1:]
        runner.begin(budget, embeds[0].numpy(), start, made=tokens)
    else:
        chunk = reference.parts.text.embed(ids)[None]
        rows, visual = torch.cat([embeds, chunk], dim=1), range(start, start + budget)
        answer = reference.answer(rows, 2, visual, prompt_rows=embeds.shape[1], made=made)
        want = [row.numpy() for row in answer.logits]
    got = runner.put(reference.parts.text.embed(ids).detach().numpy())
    ledger.compare(names.EXTEND, None, names.LOGITS, got, want[0])
    if len(want) > 1 and got.argmax() == want[0].argmax():
        stepped = runner.step(int(got.argmax()))
        ledger.compare(names.EXTEND, None, "next logits", stepped, want[1])


def _some_ids(reference: Reference, count: int) -> Tensor:
    """Ids from all over the vocabulary; what they say does not matter here."""
    return torch.arange(count) * 7919 % reference.parts.text.vocabulary
