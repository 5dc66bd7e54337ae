"""SIGINT and SIGTERM as exceptions, so that temporary directories go before the process does."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_HANDLED = (signal.SIGINT, signal.SIGTERM)


class Terminated(BaseException):
    """SIGTERM came; not an Exception, so that no handler for those swallows it."""


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Within it, the first signal raises and the second one ends the process at once.

    Only the command line does this: a library must leave its host's handlers alone.
    """
    previous = {number: signal.getsignal(number) for number in _HANDLED}
    for number, handler in previous.items():
        if handler is not signal.SIG_IGN:  # ignored on purpose, as by nohup
            signal.signal(number, _raise)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _raise(number: int, frame: FrameType | None) -> None:
    for each in _HANDLED:
        signal.signal(each, signal.SIG_DFL)
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated
