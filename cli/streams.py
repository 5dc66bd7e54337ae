"""Standard streams that may be closed, full, or without a reader.

What goes to standard error goes along with a result: that it cannot be written fails nothing.
A result that standard output does not take is one, and has an exit code.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import BinaryIO, TextIO

from edgetok.errors import InputError


class _Forgiving(io.TextIOWrapper):
    """A text stream that drops what cannot be written.

    The layers below are Python's own: a signal between a write and its count would have what was
    written written again.
    """

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def prepare_streams() -> None:
    """Give every standard descriptor a file, so that no other file gets its number.

    `sys.stdin` stays None where it was closed: nothing can be read, which is not an empty file.
    """
    for descriptor in (0, 1, 2):
        _occupy(descriptor)
    if sys.stdout is None:
        sys.stdout = _text(io.TextIOWrapper, 1, None)
    sys.stderr = _text(_Forgiving, 2, sys.stderr)


def _occupy(descriptor: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != descriptor:
            os.dup2(opened, descriptor)
            os.close(opened)
        os.set_inheritable(descriptor, True)


def _text(kind: type[io.TextIOWrapper], descriptor: int, before: TextIO | None) -> TextIO:
    """A text stream over a descriptor, in the encoding of the stream before it."""
    encoding = "utf-8" if before is None else before.encoding
    return kind(
        io.BufferedWriter(io.FileIO(descriptor, "w", closefd=False)),
        encoding,
        "backslashreplace",
        line_buffering=True,
        write_through=True,
    )


def is_terminal() -> bool:
    """Whether somebody types standard input."""
    return sys.stdin is not None and sys.stdin.isatty()


def read_input(most_bytes: int, *, line: bool = False) -> bytes:
    """So many bytes of standard input at most, or of its next line.

    Raises:
        InputError: if it is closed or cannot be read.
    """
    if sys.stdin is None:
        raise InputError("standard input is closed; give it a file or a pipe, such as < FILE")
    source: BinaryIO = sys.stdin.buffer
    try:
        return source.readline(most_bytes) if line else source.read(most_bytes)
    except OSError as error:  # UnsupportedOperation is one
        raise InputError(
            f"standard input cannot be read: {error.strerror or error}; give it a readable file "
            "or a pipe"
        ) from error


def flush_output() -> None:
    """Write what is left of a result.

    Raises:
        OSError: if standard output does not take it; nothing is left to be written then.
    """
    try:
        sys.stdout.flush()
    except OSError:
        _drop_output()
        raise


def _drop_output() -> None:
    """Point standard output at nothing, or the interpreter fails over it when it ends."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)
