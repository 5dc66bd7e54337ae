"""The check of prefill graphs that take visual tokens away, and of the decode steps after them.

At each cut a graph must keep the tokens that PyTorch keeps. Between tokens that are all but equal
the last bits of a sum decide, and those differ between any two programs: a case is *undecided* at
a rung if PyTorch itself keeps others when the rows it starts from move by millionths. Then, and in
quantized graphs, whose scores are coarser, PyTorch is made to keep what the graph kept, so that
everything else is still held to it.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from edgetok import names
from edgetok.export.parity.agreement import PARITY_TOKENS, compare_steps
from edgetok.export.parity.exits import check_exits
from edgetok.export.parity.ledger import Ledger
from edgetok.export.parity.prompt import Prompt
from edgetok.export.parity.sessions import GraphRunner
from edgetok.export.reference.prompt_reduced import PrefillReference, ReducedAnswer

Array = npt.NDArray[Any]
NUDGE = 3e-6  # of a row's entries, as of pixels in `edgetok.export.parity.tower_reducing`
NUDGES = 8


def check_reduced(
    ledger: Ledger, reference: PrefillReference, sessions: GraphRunner, prompt: Prompt
) -> bool:
    """Prefill and decode on PyTorch's own rows; whether both kept the same tokens."""
    if reference.exits:
        return check_exits(ledger, reference, sessions, prompt)
    embeds, start, budget = prompt.embeds, prompt.start, prompt.budget
    want = reference.answer(embeds, start, PARITY_TOKENS)
    sizes = [len(cut) for cut in want.cuts]
    kept = split_cuts(sessions.prefill(budget, prompt.rows, start), sizes)
    same = kept == want.cuts
    if not same:
        exact = ledger.limits.kept is not None
        open_ = exact and is_undecided(reference, embeds, start, want)
        ledger.record("prefill", budget, names.PREFILL_KEPT, "decided", float(not open_), min)
        if exact and not open_:
            ledger.record("prefill", budget, names.PREFILL_KEPT, "kept", _share(kept, want), min)
            return False
        if min(min(cut) for cut in kept) < 0:  # mixtures cannot be given to PyTorch by number
            return False
        want = reference.answer(embeds, start, PARITY_TOKENS, forced=kept)
    else:
        ledger.record("prefill", budget, names.PREFILL_KEPT, "kept", 1.0, min)
    stop_ids = reference.text.stop_ids
    logits, ids = sessions.answer(budget, prompt.rows, PARITY_TOKENS, stop_ids, start)
    compare_steps(ledger, budget, (logits, ids), (want.logits, want.ids))
    return same


def split_cuts(outputs: dict[str, Array], sizes: list[int]) -> list[list[int]]:
    """What a prefill graph kept, cut by cut."""
    ends = list(accumulate(sizes))
    kept = outputs[names.PREFILL_KEPT].tolist() if sizes else []
    return [kept[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def is_undecided(
    reference: PrefillReference, embeds: Tensor, start: int, plain: ReducedAnswer
) -> bool:
    """Whether PyTorch keeps other tokens when its rows move by millionths."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(NUDGES):
        noise = torch.randn(embeds.shape, generator=generator)
        moved = reference.answer(embeds * (1 + NUDGE * noise), start, 1)
        if moved.cuts != plain.cuts:
            return True
    return False


def _share(kept: list[list[int]], want: ReducedAnswer) -> float:
    """Smallest share of a cut's tokens that both kept."""
    return min(len({*a} & {*b}) / len(b) for a, b in zip(kept, want.cuts, strict=True))
