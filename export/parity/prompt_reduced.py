"""The gate for prefill graphs that take visual tokens away, and for the decode steps behind them.

At each cut a graph must keep the tokens that PyTorch keeps. Between tokens that are all but equal
the last bits of a sum decide, and those differ between any two programs: a case is *undecided* at
a rung if PyTorch itself keeps others when the rows it starts from move by millionths. Then, and in
quantized graphs, whose scores are coarser, PyTorch is made to keep what the graph kept, so that
everything else is still held to it.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import torch
from torch import Tensor

from edgetok import names
from edgetok.export.parity.agreement import PARITY_TOKENS, common_steps
from edgetok.export.parity.exits import prove_exits
from edgetok.export.reference.prompt_reduced import PrefillReference, ReducedAnswer

if TYPE_CHECKING:
    from edgetok.export.parity.gate import Ledger
    from edgetok.export.parity.sessions import GraphRunner

Array = npt.NDArray[Any]
NUDGE = 3e-6  # of a row's entries, as of pixels in `edgetok.export.parity.tower_reducing`
NUDGES = 8


def prove_prefill(
    ledger: Ledger,
    reference: PrefillReference,
    runner: GraphRunner,
    embeds: Tensor,
    start: int,
    budget: int,
) -> bool:
    """Prefill and decode on PyTorch's own rows [1, n, D]; whether both kept the same tokens."""
    if reference.exits:
        return prove_exits(ledger, reference, runner, embeds, start, budget)
    want = reference.answer(embeds, start, PARITY_TOKENS)
    rows = embeds[0].numpy()
    kept = split_cuts(runner.prefill(budget, rows, start), [len(cut) for cut in want.cuts])
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
    logits, ids = runner.answer(budget, rows, PARITY_TOKENS, stop_ids, start)
    for step in range(common_steps(ids, want.ids)):
        stage = "decode" if step else "prefill"
        ledger.compare(stage, budget, names.LOGITS, logits[step], want.logits[step].numpy())
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
