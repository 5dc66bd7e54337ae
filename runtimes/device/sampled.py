"""Measuring what has to be looked at again and again, while something else runs."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Sampled(ABC):
    """Calls `note` at intervals while the block runs, from a thread, and once after it."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    @abstractmethod
    def note(self) -> None:
        """Look once."""

    def __enter__(self) -> Self:
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
        self.note()

    def _sample(self) -> None:
        while not self._ended.wait(self._interval_s):
            self.note()
