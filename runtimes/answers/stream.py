"""An answer while it is generated."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from types import TracebackType

from edgetok.runtimes.answers.answer import Answer, Progress


class Stream:
    """Pieces of text as they are generated. Closing it cancels; `answer` is there at the end."""

    def __init__(self, pieces: Generator[str, None, None], progress: Progress) -> None:
        self._pieces = pieces
        self._progress = progress

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop generating; the model is free for the next question."""
        self._pieces.close()
        if self._progress.stop_reason is None:
            self._progress.stop_reason = "cancelled"

    def finish(self) -> Answer:
        """Read to the end without looking at the pieces; the answer."""
        for _ in self._pieces:
            pass
        return self.answer

    @property
    def answer(self) -> Answer:
        """The answer, once the stream has ended or was closed.

        Raises:
            UsageError: before that.
        """
        return self._progress.answer()
