"""Repeating the golden cases of a bundle on this device, without the model they came from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edgetok.bundle.buffers import list_buffers
from edgetok.bundle.golden import IMAGE_PLACEHOLDER, GoldenCase, GoldenRung, load_golden
from edgetok.bundle.manifest import Flavour, Manifest
from edgetok.bundle.reader import Bundle
from edgetok.control import Certified
from edgetok.control.certified import list_tried
from edgetok.ladder import Rung
from edgetok.runtimes.answers.model import Model
from edgetok.runtimes.answers.request import EncodedImage
from edgetok.runtimes.checks import (
    Check,
    Report,
    cosine,
    displaced,
    largest_difference,
    mismatches,
    relative,
)
from edgetok.runtimes.images.several import join_outputs
from edgetok.runtimes.runtime.interface import has_tower_per_rung
from edgetok.runtimes.verify_inputs import input_checks


@dataclass(frozen=True, slots=True)
class Tolerances:
    """How far a device may be from the exporter, whose golden outputs are of the same graphs.

    Args:
        logits: largest difference of a logit, in standard deviations of the golden ones.
        logits_cosine: least cosine of the logits.
        pixels: largest difference of a pixel; 0.02 is one of 256 levels after normalising, by
            which decoders of JPEG differ.
        kept: share of the visual tokens that may be others, or in another place.
    """

    logits: float
    logits_cosine: float
    pixels: float = 0.02
    kept: float = 0.0


# Only the order of additions differs.
EXACT = Tolerances(logits=1e-3, logits_cosine=0.99999)
# A row that rounds to another of 256 levels moves everything after it a little.
INT8_CACHE = Tolerances(logits=0.05, logits_cosine=0.999)
# The same with 16 levels.
INT4_CACHE = Tolerances(logits=0.5, logits_cosine=0.98)
# Kernels of quantized weights round the activations to 8 bits, or do not: it depends on the
# processor, and on whether weights are packed. A wrong graph is off by whole deviations.
QUANTIZED_WEIGHTS = Tolerances(logits=0.3, logits_cosine=0.99, kept=0.1)


# Rows that are all but equally alike may merge otherwise where additions come in another order,
# and every block after them then sees other rows.
REDUCING_TOWER = Tolerances(logits=0.05, logits_cosine=0.999, kept=0.05)


def tolerances_for(manifest: Manifest, flavour: Flavour = "ort") -> Tolerances:
    """What a bundle of these graphs must keep to."""
    if manifest.precision.weights != "fp32":
        return QUANTIZED_WEIGHTS
    if has_tower_per_rung(manifest):
        return REDUCING_TOWER
    packed = [t for t in list_buffers(manifest, flavour).values() if t.dtype in ("int8", "uint8")]
    if not packed:
        return EXACT
    # Numbers of 8 bits are as many as a head has; in fewer bits, several share a byte. Golden
    # logits are of a prompt's last row, which may see the others before they are rounded.
    whole = all(t.dtype == "int8" and t.shape[-1] == manifest.kv.head_dim for t in packed)
    return INT8_CACHE if whole else INT4_CACHE


def verify(bundle: Bundle, model: Model, tolerances: Tolerances | None = None) -> Report:
    """Run every golden case on every loaded rung, and make golden inputs again.

    Args:
        tolerances: fit for the bundle's precision when None.

    Raises:
        BundleError: if the golden files are missing or malformed.
    """
    manifest = bundle.manifest
    allowed = tolerances or tolerances_for(manifest, model.runtime.flavour)
    checks = [
        check
        for case in load_golden(bundle)
        for check in _case_checks(bundle, model, case, allowed)
    ]
    inputs = input_checks(
        bundle,
        lambda asked: _read_prompt(model, asked.text, asked.system),
        model.processor.encode_turn,
        model.processor.pixels,
        allowed.pixels,
    )
    return Report((*checks, *inputs, *decision_checks(bundle)))


def decision_checks(bundle: Bundle) -> Iterator[Check]:
    """The controller's golden cases: the same rungs in the same order, from the numbers alone."""
    controller = bundle.manifest.controller
    if controller is None:
        return
    policy = Certified(controller)
    for number, case in enumerate(controller.cases):
        known: dict[int, dict[str, float]] = dict(zip(case.budgets, case.answers, strict=False))
        answers = defaultdict[int, dict[str, float]](dict, known)
        tried = list_tried(policy, bundle.ladder, case.signals, case.question, answers)
        yield Check(f"case {number}", None, "decisions", float(tried != case.budgets), 0)


def _case_checks(
    bundle: Bundle, model: Model, case: GoldenCase, tolerances: Tolerances
) -> Iterator[Check]:
    shown = [model.processor.pixels(bundle.read(image)) for image in case.images]
    pixels = np.concatenate(shown)
    ids = _read_prompt(model, case.prompt)
    difference = largest_difference(pixels.reshape(case.pixels.shape), case.pixels)
    yield Check(case.name, None, "pixels", difference, tolerances.pixels)
    yield Check(case.name, None, "prompt ids", mismatches(ids, case.text_ids.tolist()), 0)
    # From the golden pixels on, so that one cause fails one check.
    golden = np.split(case.pixels.reshape(pixels.shape), len(shown))
    output = join_outputs([model.runtime.encode(each) for each in golden])
    image = EncodedImage(output, model.digest)
    for rung in model.ladder:
        yield from _rung_checks(model, case, image, rung, tolerances)


def _read_prompt(model: Model, text: str, system: str | None = None) -> list[int]:
    prompt = model.processor.encode(text, system)
    return [*prompt.before, IMAGE_PLACEHOLDER, *prompt.after]


def _rung_checks(
    model: Model, case: GoldenCase, image: EncodedImage, rung: Rung, tolerances: Tolerances
) -> Iterator[Check]:
    golden: GoldenRung = case.rungs[rung.budget]
    kept = model.compress(image, case.prompt, budget=rung.budget).kept.tolist()
    model.forget()  # the prefill graph is to be verified
    logits = model.first_logits(image, case.prompt, budget=rung.budget)
    spread = float(golden.logits.std())
    difference = relative(largest_difference(logits, golden.logits), spread)
    regret = relative(largest_regret(model, case, logits, rung), spread)
    angle = 1 - cosine(logits, golden.logits)
    model.first_logits(image, case.prompt[:-1], budget=rung.budget)
    extended = model.first_logits(image, case.prompt, budget=rung.budget)  # after what is held
    distance = relative(largest_difference(extended, logits), spread)
    values = [
        ("kept", displaced(kept, golden.kept), tolerances.kept),
        ("logits", difference, tolerances.logits),
        ("logits cosine", angle, 1 - tolerances.logits_cosine),
        ("extension", distance, tolerances.logits),
        ("answer ids", regret, 2 * tolerances.logits),  # both tokens' logits may be off
    ]
    for what, value, tolerance in values:
        yield Check(case.name, rung.budget, what, value, tolerance)


def largest_regret(
    model: Model, case: GoldenCase, logits: NDArray[np.float32], rung: Rung
) -> float:
    """By how much a golden token misses being the likeliest, following the golden answer.

    0 means that greedy decoding gives the golden answer; a small value that two tokens are as
    good as tied. The cache must hold the prompt from which `logits` came.
    """
    golden_ids = case.rungs[rung.budget].answer_ids.tolist()
    regrets = [_regret(logits, golden_ids[0])] if golden_ids else []
    for token_id, following_id in pairwise(golden_ids):
        regrets.append(_regret(model.runtime.step(token_id), following_id))
    return float(np.max(regrets, initial=0.0))  # NaN if any is


def _regret(logits: NDArray[np.float32], token_id: int) -> float:
    if not 0 <= token_id < logits.size:
        return float("inf")
    return float(logits.max() - logits[token_id])
