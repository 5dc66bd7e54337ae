"""Putting a finished directory in its place in one step."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
from pathlib import Path

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
# The kernel, the C library or the file system does not have the call.
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


def put_new(source: Path, target: Path) -> None:
    """Rename a directory to a name that nothing has.

    Raises:
        OSError: `FileExistsError` if the name is taken; a directory with content is never replaced.
    """
    try:
        _renameat2(source, target, _RENAME_NOREPLACE)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        source.rename(target)  # fails unless the target is missing or an empty directory


def put_over(source: Path, target: Path) -> None:
    """Make `target` what `source` is; afterwards `source` holds the old directory, if any is left.

    Where the two names cannot be exchanged in one step the old directory is moved aside for a
    moment; a crash just then leaves it under `<target>.old-<random>`, complete.
    """
    try:
        _renameat2(source, target, _RENAME_EXCHANGE)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        _put_over_in_two_steps(source, target)


def _put_over_in_two_steps(source: Path, target: Path) -> None:
    aside = target.with_name(f"{target.name}.old-{secrets.token_hex(4)}")
    try:
        target.rename(aside)
        source.rename(target)
    except BaseException:  # an interrupt, too, must not leave the target's name empty
        if aside.exists() and not target.exists():
            aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _renameat2(source: Path, target: Path, flags: int) -> None:
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    arguments = (_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target))
    if call(*arguments, ctypes.c_uint(flags)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(source), None, str(target))
