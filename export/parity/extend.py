"""The check of chunks of text that are put after what the cache holds."""

from __future__ import annotations

import torch
from torch import Tensor

from edgetok import names
from edgetok.export.parity.ledger import Ledger
from edgetok.export.parity.prompt import Prompt
from edgetok.export.parity.sessions import GraphRunner, as_arrays
from edgetok.export.reference.model import Reference


def check_extend(
    ledger: Ledger,
    reference: Reference,
    sessions: GraphRunner,
    prompt: Prompt,
    *,
    by_steps: bool = False,
) -> None:
    """A chunk of text of each size after a prompt, and a token.

    Where every row stays, PyTorch runs prompt and chunk in one piece; where prefill takes rows
    away, or with `by_steps`, the chunk must do what as many single steps do, which are checked by
    themselves.
    """
    for width in sessions.chunk_sizes:
        _check_chunk(ledger, reference, sessions, prompt, width, by_steps=by_steps)


def _check_chunk(
    ledger: Ledger,
    reference: Reference,
    sessions: GraphRunner,
    prompt: Prompt,
    width: int,
    *,
    by_steps: bool,
) -> None:
    budget, start = prompt.budget, prompt.start
    # A prompt that leaves no room for the chunk and one token more gives up its end.
    embeds = prompt.embeds[:, : sessions.room_for(budget) - width - 1]
    ids = _some_ids(reference, width)
    rows, tokens = embeds[0].numpy(), as_arrays(prompt.made)
    sessions.begin(budget, rows, start, made=tokens)
    if sessions.reduces or by_steps:
        want = [sessions.step(int(token)) for token in ids][-1:]
        sessions.begin(budget, rows, start, made=tokens)
    else:
        chunk = reference.parts.text.embed(ids)[None]
        whole, count = torch.cat([embeds, chunk], dim=1), embeds.shape[1]
        answer = reference.answer(whole, 2, prompt.visual, count, prompt.made)
        want = [row.numpy() for row in answer.logits]
    got = sessions.put(reference.parts.text.embed(ids).detach().numpy())
    ledger.compare(names.EXTEND, None, names.LOGITS, got, want[0])
    if len(want) > 1 and got.argmax() == want[0].argmax():
        stepped = sessions.step(int(got.argmax()))
        ledger.compare(names.EXTEND, None, "next logits", stepped, want[1])


def _some_ids(reference: Reference, count: int) -> Tensor:
    """Ids from all over the vocabulary; what they say does not matter here."""
    return torch.arange(count) * 7919 % reference.parts.text.vocabulary
