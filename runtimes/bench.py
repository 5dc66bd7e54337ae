"""Measuring a loaded bundle on this device, rung by rung."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable
from types import TracebackType

import numpy as np

from edgetok.control import Row
from edgetok.errors import UsageError
from edgetok.runtimes import machine
from edgetok.runtimes.answer import Answer
from edgetok.runtimes.generate import Model
from edgetok.runtimes.pictures import Pictures

WARM_UP_ANSWERS = 1  # the first one touches pages of weights and cache for the first time
MEMORY_INTERVAL_S = 0.01
_MIB = 1 << 20


class PeakMemory:
    """The most private memory that this process held while the block ran, sampled."""

    def __init__(self, read_bytes: Callable[[], int | None] = machine.private_bytes) -> None:
        self.peak_bytes = 0
        self._read_bytes = read_bytes
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._sampler.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._sampler.join()
        self._note()

    def _sample(self) -> None:
        while not self._ended.wait(MEMORY_INTERVAL_S):
            self._note()

    def _note(self) -> None:
        self.peak_bytes = max(self.peak_bytes, self._read_bytes() or 0)


def measure(
    model: Model, *, repeats: int, image: Pictures, prompt: str, max_new_tokens: int = 32
) -> list[Row]:
    """One row per loaded rung; encoding the image is part of every time to first token.

    Args:
        repeats: timed answers per rung, after the warm-up.
        max_new_tokens: the decode speed is measured over at most so many.

    Raises:
        UsageError: if `repeats` is not positive.
        InputError: if image or prompt is rejected.
    """
    if repeats < 1:
        raise UsageError(f"repeats {repeats} is not positive")

    def answer(budget: int) -> Answer:
        model.forget()  # the same question again would find its rows in the cache
        return model.generate(image, prompt, budget=budget, max_new_tokens=max_new_tokens)

    return [_measure_rung(answer, budget, repeats) for budget in model.ladder.budgets]


def _measure_rung(answer: Callable[[int], Answer], budget: int, repeats: int) -> Row:
    # Memory first and apart: reading it stops the world for a moment.
    with PeakMemory() as memory:
        for _ in range(WARM_UP_ANSWERS):
            answer(budget)
    answers = [answer(budget) for _ in range(repeats)]
    return summarise(budget, answers, memory.peak_bytes)


def summarise(budget: int, answers: list[Answer], peak_bytes: int) -> Row:
    """The row of a rung from its timed answers."""
    first = [answer.timings_ms["ttft"] for answer in answers]
    per_token = [a.timings_ms["decode_per_token"] for a in answers if len(a.token_ids) > 1]
    return Row(
        budget=budget,
        ttft_ms_p50=statistics.median(first),
        ttft_ms_p95=float(np.percentile(first, 95, method="higher")),
        decode_ms_p50=statistics.median(per_token) if per_token else 0.0,
        memory_mib=peak_bytes / _MIB,
    )
