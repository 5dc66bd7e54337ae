"""Repeating the golden cases of a bundle on this device, without the model they came from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgetok.bundle.golden import IMAGE_PLACEHOLDER, GoldenCase, GoldenRung, load_golden
from edgetok.bundle.reader import Bundle
from edgetok.errors import VerificationError
from edgetok.ladder import Bucket
from edgetok.runtimes.generate import EncodedImage, Model


@dataclass(frozen=True, slots=True)
class Tolerances:
    """How far a device may be from the exporter. The golden outputs are of the same graphs, so
    only the order of additions differs; an int8 cache rounds, which can amplify that.

    Args:
        pixels: largest absolute difference of a pixel; decoders of JPEG differ by a level.
        logits: largest absolute difference of a logit.
        logits_cosine: least cosine of the logits.
    """

    pixels: float = 1e-5
    logits: float = 1e-3
    logits_cosine: float = 0.9999


INT8_CACHE = Tolerances(logits=5e-2, logits_cosine=0.999)


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison. `value` must not exceed `tolerance`; 0 means equal."""

    case: str
    budget: int | None
    what: str
    value: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.value <= self.tolerance  # False for NaN


@dataclass(frozen=True, slots=True)
class Report:
    """All comparisons of a verification."""

    checks: tuple[Check, ...]

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)

    def require_passed(self) -> None:
        """Raises VerificationError naming the first failures."""
        if self.failures:
            listed = "; ".join(_describe(check) for check in self.failures[:5])
            raise VerificationError(
                f"{len(self.failures)} of {len(self.checks)} checks failed: {listed}; "
                f"export again with this device's onnxruntime, or upgrade it"
            )


def verify(bundle: Bundle, model: Model, tolerances: Tolerances | None = None) -> Report:
    """Run every golden case on every loaded rung.

    Args:
        tolerances: fit for the bundle's precision when None.

    Raises:
        BundleError: if the golden files are missing or malformed.
    """
    if tolerances is None:
        tolerances = INT8_CACHE if bundle.manifest.precision.kv == "int8" else Tolerances()
    checks = [
        check
        for case in load_golden(bundle)
        for check in _case_checks(bundle, model, case, tolerances)
    ]
    return Report(tuple(checks))


def _case_checks(
    bundle: Bundle, model: Model, case: GoldenCase, tolerances: Tolerances
) -> Iterator[Check]:
    pixels = model.processor.pixels(bundle.read(case.image))
    prompt = model.processor.encode(case.prompt)
    ids = [*prompt.before, IMAGE_PLACEHOLDER, *prompt.after]
    difference = largest_difference(pixels[0], case.pixels)
    yield Check(case.name, None, "pixels", difference, tolerances.pixels)
    yield Check(case.name, None, "prompt ids", mismatches(ids, case.text_ids), 0)
    # From the golden pixels on, so that one cause fails one check.
    output = model.runtime.encode(case.pixels[None])
    image = EncodedImage(output, model.digest)
    for bucket in model.ladder:
        yield from _rung_checks(model, case, image, bucket, tolerances)


def _rung_checks(
    model: Model, case: GoldenCase, image: EncodedImage, bucket: Bucket, tolerances: Tolerances
) -> Iterator[Check]:
    golden: GoldenRung = case.rungs[bucket.budget]
    logits = model.first_logits(image, case.prompt, budget=bucket.budget)
    answer = model.generate(
        image, case.prompt, budget=bucket.budget, max_new_tokens=max(1, len(golden.answer_ids))
    )
    values = [
        ("kept", mismatches(answer.kept, golden.kept), 0.0),
        ("logits", largest_difference(logits, golden.logits), tolerances.logits),
        ("logits cosine", 1 - cosine(logits, golden.logits), 1 - tolerances.logits_cosine),
        ("answer ids", mismatches(answer.token_ids, golden.answer_ids), 0.0),
    ]
    for what, value, tolerance in values:
        yield Check(case.name, bucket.budget, what, value, tolerance)


def largest_difference(actual: NDArray[np.float32], golden: NDArray[np.float32]) -> float:
    """Largest absolute difference; infinite for different shapes, NaN if one holds NaN."""
    if actual.shape != golden.shape:
        return float("inf")
    return float(np.abs(actual.astype(np.float64) - golden).max(initial=0))


def cosine(actual: NDArray[np.float32], golden: NDArray[np.float32]) -> float:
    """Cosine of two vectors [W]; NaN if one is zero or holds NaN."""
    a, b = actual.astype(np.float64), golden.astype(np.float64)
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norms) if norms else float("nan")


def mismatches(actual: Sequence[int], golden: NDArray[np.int64]) -> float:
    """How many places differ, missing ones included."""
    wanted = golden.tolist()
    differing = sum(a != b for a, b in zip(actual, wanted, strict=False))
    return float(differing + abs(len(actual) - len(wanted)))


def _describe(check: Check) -> str:
    where = check.case if check.budget is None else f"{check.case} at {check.budget} tokens"
    return f"{check.what} of {where} off by {check.value:.3g} (at most {check.tolerance:.3g})"
