"""Measuring a loaded bundle on this device, rung by rung."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np

from edgetok.control import Row
from edgetok.errors import UsageError
from edgetok.images.reading import ImageInput
from edgetok.runtimes.answers.answer import Answer
from edgetok.runtimes.answers.model import Model
from edgetok.runtimes.device import machine
from edgetok.runtimes.device.energy import Meter, find_meter
from edgetok.runtimes.device.sampled import Sampled
from edgetok.runtimes.encoder.model import Encoder
from edgetok.runtimes.images.several import Pictures

WARM_UP_ANSWERS = 1  # the first one touches pages of weights and cache for the first time
MEMORY_INTERVAL_S = 0.01
_MIB = 1 << 20


class PeakMemory(Sampled):
    """The most private memory that this process held while the block ran, sampled."""

    def __init__(self, read_bytes: Callable[[], int | None] = machine.private_bytes) -> None:
        super().__init__(MEMORY_INTERVAL_S)
        self.peak_bytes = 0
        self._read_bytes = read_bytes

    def note(self) -> None:
        self.peak_bytes = max(self.peak_bytes, self._read_bytes() or 0)


def measure(
    model: Model,
    *,
    repeats: int,
    image: Pictures,
    prompt: str,
    max_new_tokens: int = 32,
    meters: Callable[[], Meter | None] = find_meter,
) -> list[Row]:
    """One row per loaded rung; encoding the image is part of every time to first token.

    Args:
        repeats: timed answers per rung, after the warm-up.
        max_new_tokens: the decode speed is measured over at most so many.
        meters: gives a meter of the device's energy for each rung, or None.

    Raises:
        UsageError: if `repeats` is not positive.
        InputError: if image or prompt is rejected.
    """
    if repeats < 1:
        raise UsageError(f"repeats {repeats} is not positive")

    def answer(budget: int) -> Answer:
        model.forget()  # the same question again would find its rows in the cache
        return model.generate(image, prompt, budget=budget, max_new_tokens=max_new_tokens)

    return [_measure_rung(answer, budget, repeats, meters()) for budget in model.ladder.budgets]


def measure_encoder(encoder: Encoder, *, repeats: int, image: ImageInput) -> list[Row]:
    """One row per loaded rung: the time to first token is that of preprocessing and encoding.

    Raises:
        UsageError: if `repeats` is not positive.
        InputError: if the image is rejected.
    """
    if repeats < 1:
        raise UsageError(f"repeats {repeats} is not positive")
    return [_measure_encoding(encoder, budget, repeats, image) for budget in encoder.budgets]


def _measure_encoding(encoder: Encoder, budget: int, repeats: int, image: ImageInput) -> Row:
    with PeakMemory() as memory:
        for _ in range(WARM_UP_ANSWERS):
            encoder.encode(image, budget=budget)
    times = [
        sum(encoder.encode(image, budget=budget).milliseconds.values()) for _ in range(repeats)
    ]
    return Row(
        budget=budget,
        ttft_ms_p50=statistics.median(times),
        ttft_ms_p95=float(np.percentile(times, 95, method="higher")),
        decode_ms_p50=0.0,
        memory_mib=memory.peak_bytes / _MIB,
    )


def _measure_rung(
    answer: Callable[[int], Answer], budget: int, repeats: int, meter: Meter | None
) -> Row:
    # Memory first and apart: reading it stops the world for a moment.
    with PeakMemory() as memory:
        for _ in range(WARM_UP_ANSWERS):
            answer(budget)
    with nullcontext() if meter is None else meter:
        answers = [answer(budget) for _ in range(repeats)]
    joules = None if meter is None else meter.joules / repeats
    return summarise(budget, answers, memory.peak_bytes, joules)


def summarise(
    budget: int, answers: list[Answer], peak_bytes: int, energy_j: float | None = None
) -> Row:
    """The row of a rung from its timed answers."""
    first = [answer.timings_ms["ttft"] for answer in answers]
    per_token = [a.timings_ms["decode_per_token"] for a in answers if len(a.token_ids) > 1]
    return Row(
        budget=budget,
        ttft_ms_p50=statistics.median(first),
        ttft_ms_p95=float(np.percentile(first, 95, method="higher")),
        decode_ms_p50=statistics.median(per_token) if per_token else 0.0,
        memory_mib=peak_bytes / _MIB,
        energy_j=energy_j,
    )
