"""Checking on the target that an encoder's bundle makes what its golden cases say."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgetok.bundle.encoder_golden import EncoderCase, load_encoder_golden
from edgetok.bundle.reader import EncoderBundle
from edgetok.runtimes.checks import (
    Check,
    Report,
    cosine,
    largest_difference,
    mismatches,
    relative,
)
from edgetok.runtimes.encoder.model import Encoder
from edgetok.runtimes.runtime.protocol import FloatArray
from edgetok.runtimes.verify import EXACT, QUANTIZED_WEIGHTS, REDUCING_TOWER, Tolerances
from edgetok.runtimes.verify_inputs import input_checks


def verify_encoder(bundle: EncoderBundle, encoder: Encoder) -> Report:
    """Run every golden case on every loaded rung, and the golden text; make golden inputs again.

    Raises:
        BundleError: if the golden files are missing or malformed.
    """
    cases, text = load_encoder_golden(bundle)
    checks = [check for case in cases for check in _case_checks(bundle, encoder, case)]
    if text is not None:
        ids = encoder.read_text(text.text)
        checks.append(
            Check("text", None, "text ids", mismatches(ids.tolist(), text.ids.tolist()), 0)
        )
        tolerances = tolerances_for(bundle, bundle.manifest.vision.full_tokens)
        made = encoder.describe(text.text)
        checks += _compare("text", None, made, text.embedding, tolerances)
    checks += input_checks(
        bundle,
        lambda asked: encoder.read_text(asked.text).tolist(),
        lambda _: (),  # an encoder has no conversations
        encoder.pixels,
        EXACT.pixels,
    )
    return Report(tuple(checks))


def tolerances_for(bundle: EncoderBundle, budget: int) -> Tolerances:
    """What a rung must keep to: rows that are all but equally alike may merge otherwise."""
    if bundle.manifest.weights != "fp32":
        return QUANTIZED_WEIGHTS
    return EXACT if budget == bundle.manifest.vision.full_tokens else REDUCING_TOWER


def _case_checks(bundle: EncoderBundle, encoder: Encoder, case: EncoderCase) -> Iterator[Check]:
    pixels = encoder.pixels(bundle.read(case.image))
    off = largest_difference(pixels[0], case.pixels)
    yield Check(case.name, None, "pixels", off, EXACT.pixels)
    for budget in encoder.budgets:  # from the golden pixels on, so that one cause fails one check
        made = encoder.run(np.ascontiguousarray(case.pixels[None]), budget=budget).output
        tolerances = tolerances_for(bundle, budget)
        yield from _compare(case.name, budget, made, case.rungs[budget], tolerances)


def _compare(
    name: str, budget: int | None, made: FloatArray, golden: FloatArray, tolerances: Tolerances
) -> Iterator[Check]:
    off = relative(largest_difference(made, golden), float(golden.std()))
    yield Check(name, budget, "output", off, tolerances.logits)
    # Depth after a ReLU may be 0 everywhere, which has no direction.
    angle = 0.0 if off == 0 else 1 - cosine(made.ravel(), golden.ravel())
    yield Check(name, budget, "output cosine", angle, 1 - tolerances.logits_cosine)
