"""The parity check of encoders: graphs, and the full budget against the whole model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgetok import names
from edgetok.bundle.manifest import Flavour, Weights
from edgetok.export.encoder.reference import EncoderReference
from edgetok.export.lowering.levels import round_matrix
from edgetok.export.lowering.quantize import ENCODER_BITS
from edgetok.export.lowering.rounding import round_linears
from edgetok.export.parity.inputs import InputReport
from edgetok.export.parity.ledger import LIMITS, Check, Ledger, Limits
from edgetok.export.parity.sessions import GraphRunner
from edgetok.export.parity.undecided import NUDGE, nudged

Array = npt.NDArray[Any]
# Of the float32 graph from Hugging Face's own forward pass.
WHOLE = Limits(max_abs=1e-3, cosine=0.99999, kept=None, tokens=None)
# What coarser weights cost is a property of the model, which the report states.
COST = Limits(max_abs=None, cosine=-1.0, kept=None, tokens=None)


class EncoderParity(msgspec.Struct, frozen=True):
    """What `reports/parity.json` of an encoder holds."""

    weights: Weights
    cases: int
    synthetic: bool
    inputs: InputReport
    checks: list[Check]


def check_encoder(
    reference: EncoderReference,
    runners: dict[Flavour, GraphRunner],
    budgets: Sequence[int],
    pixels: Sequence[Tensor],
    texts: Sequence[Tensor],
    weights: Weights,
) -> list[Check]:
    """Compare all graphs on every image and text."""
    full = reference.parts.vision.full_tokens
    checks = _check_whole(reference, pixels, full)
    for flavour, runner in runners.items():
        ledger = Ledger(LIMITS["fp32" if weights == "fp32" else "quantized"])
        with hold_rounded(reference, weights, flavour):
            for each in pixels:
                for budget in budgets:
                    _check_rung(ledger, reference, runner, each, budget)
            for ids in texts:
                got = runner.run(names.DESCRIBE, None, {names.TOKEN_IDS: ids.numpy()})
                want = reference.describe(ids).numpy()
                ledger.compare(
                    names.DESCRIBE, None, names.TEXT_EMBEDDING, got[names.TEXT_EMBEDDING], want
                )
        if full in budgets:
            checks += _check_end(reference, runner, pixels, full, weights, flavour)
        checks += [_of_flavour(check, flavour) for check in ledger.checks()]
    return checks


def _check_whole(reference: EncoderReference, pixels: Sequence[Tensor], full: int) -> list[Check]:
    """The parts put together, against the whole model: both in PyTorch, in float32."""
    ledger, output = Ledger(WHOLE), reference.parts.output
    for each in pixels:
        got = reference.run(each, full)[output].numpy()
        ledger.compare("parts of the model", full, output, got, reference.whole(each).numpy())
    return ledger.checks()


def _check_end(
    reference: EncoderReference,
    runner: GraphRunner,
    pixels: Sequence[Tensor],
    full: int,
    weights: Weights,
    flavour: Flavour,
) -> list[Check]:
    """The full budget's graph against Hugging Face's float32 forward pass."""
    ledger, output = Ledger(WHOLE if weights == "fp32" else COST), reference.parts.output
    for each in pixels:
        got = runner.run(names.ENCODE, full, {names.PIXELS: each.numpy()})[output]
        ledger.compare("whole model", full, output, got, reference.whole(each).numpy())
    return [_of_flavour(check, flavour) for check in ledger.checks()]


def _of_flavour(check: Check, flavour: Flavour) -> Check:
    if flavour == "ort":
        return check
    return msgspec.structs.replace(check, stage=f"{check.stage} ({flavour})")


def _check_rung(
    ledger: Ledger, reference: EncoderReference, runner: GraphRunner, pixels: Tensor, budget: int
) -> None:
    """A rung's graph; where PyTorch itself merges otherwise when nudged, its choice is left open.

    Quantized graphs merge otherwise all the time: of them, outputs are compared where both made
    the same of the patches.
    """
    output = reference.parts.output
    want = {name: value.numpy() for name, value in reference.run(pixels, budget).items()}
    got = runner.run(names.ENCODE, budget, {names.PIXELS: pixels.numpy()})
    limit = ledger.limits.max_abs
    open_choice = (
        not _made_the_same(got, want)
        if limit is None
        else _distance(got, want, output) > limit
        and _is_open(reference, pixels, budget, want, _distance(got, want, output))
    )
    if open_choice:
        ledger.record(names.ENCODE, budget, output, "decided", 0.0, min)
        return
    ledger.record(names.ENCODE, budget, output, "decided", 1.0, min)
    if limit is not None:
        ledger.record(
            names.ENCODE, budget, names.KEPT, "kept", float(_made_the_same(got, want)), min
        )
    ledger.compare(names.ENCODE, budget, output, got[output], want[output])


def _is_open(
    reference: EncoderReference, pixels: Tensor, budget: int, plain: dict[str, Array], off: float
) -> bool:
    """Whether PyTorch makes something else, or something half as far, when pixels move a little."""
    for other in chain(nudged(pixels), nudged(pixels, 3 * NUDGE)):
        moved = {n: v.numpy() for n, v in reference.run(other, budget).items()}
        if _distance(moved, plain, reference.parts.output) >= off / 2:
            return True
    return False


def _distance(got: dict[str, Array], want: dict[str, Array], output: str) -> float:
    """How far outputs are apart, as `max_abs` counts; infinite for other groups."""
    if not _made_the_same(got, want):
        return float("inf")
    scale = max(1.0, float(np.abs(want[output]).max()) / 10)
    return float(np.abs(got[output] - want[output]).max()) / scale


def _made_the_same(got: dict[str, Array], want: dict[str, Array]) -> bool:
    """Whether all rows have one centre and one size."""
    centres = (got[names.KEPT] == want[names.KEPT]).all()
    return bool(centres and np.isclose(got[names.SIZES], want[names.SIZES], rtol=1e-3).all())


@contextmanager
def hold_rounded(reference: EncoderReference, weights: Weights, flavour: Flavour) -> Iterator[None]:
    """Round the model's matrices as a flavour's graphs do, for a time; fp32 changes nothing."""
    parts, bits = reference.parts, ENCODER_BITS[weights].get(names.ENCODE, 0)
    if not bits:
        yield
        return
    together = nn.ModuleList([parts.model, parts.head])
    rounding = None if flavour == "ort" else round_matrix
    with round_linears([together], bits, rounding), torch.no_grad():
        yield
