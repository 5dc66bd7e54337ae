"""One answer at a time: what a model and its conversations share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from edgetok.errors import UsageError
from edgetok.runtimes.answers.answer import Clock, Progress, Stopwatch
from edgetok.runtimes.answers.steps import Pipeline


@dataclass(frozen=True, slots=True)
class Session:
    """The steps of an answer over one KV cache, which one answer has for itself.

    Args:
        steps: of an answer.
        clock: seconds, monotonic.
    """

    steps: Pipeline
    clock: Clock
    _in_use: threading.Lock = field(default_factory=threading.Lock)

    def watch(self) -> Stopwatch:
        """A stopwatch that has measured nothing yet."""
        return Stopwatch(self.clock)

    def progress(self) -> Progress:
        """The notes of an answer that has not begun."""
        return Progress(self.watch())

    @contextmanager
    def exclusive(self) -> Iterator[Pipeline]:
        """The steps, while nobody else has them.

        Raises:
            UsageError: if somebody has. Waiting would deadlock a thread that forgot to close its
                own stream.
        """
        if not self._in_use.acquire(blocking=False):
            raise UsageError(
                "this model is answering already and has one KV cache; read that stream to its "
                "end, close it, or load the bundle again"
            )
        try:
            yield self.steps
        finally:
            self._in_use.release()
