"""Names inside a bundle, and opening them without ever leaving it.

The check is on components and on the opened descriptor, never on a joined string: prefix checks
and string cleaning have been bypassed in every library that tried them.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path

from edgetok import limits
from edgetok.bundle.strict import shorten
from edgetok.errors import BundleError, UsageError

# No leading dot (hidden files, `..`), no trailing dot (Windows drops it), ASCII only.
_COMPONENT = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_-])?", re.ASCII)

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO must not wait for a writer.
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def require_safe_path(text: str) -> str:
    """Return `text` if it is a plain relative path such as `onnx/ort/tower.onnx`.

    Raises:
        BundleError: for anything absolute, hidden, with `..`, `\\`, empty or odd components.
    """
    components = text.split("/")
    if len(text) > limits.PATH_CHARACTERS or len(components) > limits.PATH_COMPONENTS:
        raise BundleError(
            f"path `{shorten(text)}` is longer than {limits.PATH_CHARACTERS} characters or "
            f"{limits.PATH_COMPONENTS} components"
        )
    if not all(_COMPONENT.fullmatch(component) for component in components):
        raise BundleError(
            f"path `{shorten(text)}` is not a plain relative path; components may hold letters, "
            f"digits, `.`, `_` and `-`, and neither start nor end with a dot"
        )
    return text


def require_unicode_path(root: Path) -> str:
    """The directory of a bundle as text that ONNX Runtime takes.

    Raises:
        UsageError: if a name on the way there has bytes that are no UTF-8.
    """
    try:
        str(root).encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{root}: a name in this path has bytes that are no UTF-8, and ONNX Runtime finds "
            "weights by paths in UTF-8 only; rename it"
        ) from error
    return str(root)


def open_beneath(root_fd: int, path: str) -> int:
    """Open a regular file below a directory for reading, following no link of any kind.

    Args:
        root_fd: descriptor of the bundle's directory.
        path: checked with `require_safe_path` first.

    Returns:
        A descriptor that the caller closes.

    Raises:
        BundleError: if a component is missing or a link, or the file is no regular file with
            exactly one name.
    """
    *parents, name = require_safe_path(path).split("/")
    directory = os.dup(root_fd)
    try:
        for parent in parents:
            directory = _step(directory, parent, path)
        descriptor = _open_at(directory, name, _FILE_FLAGS, path)
    finally:
        os.close(directory)
    try:
        _require_plain_file(os.fstat(descriptor), path)
    except BundleError:
        os.close(descriptor)
        raise
    return descriptor


def _step(directory: int, parent: str, path: str) -> int:
    """Descend one level; gives `directory` back only through the new descriptor."""
    below = _open_at(directory, parent, _DIRECTORY_FLAGS, path)
    os.close(directory)
    return below


def _open_at(directory: int, name: str, flags: int, path: str) -> int:
    try:
        return os.open(name, flags, dir_fd=directory)
    except OSError as error:
        raise BundleError(f"{path}: {_reason(directory, name, error)}") from error


def _reason(directory: int, name: str, error: OSError) -> str:
    """Why an open failed, in a bundle's words."""
    if error.errno == errno.ENOENT:
        return "listed in the manifest but missing"
    try:
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except OSError:
        return error.strerror or str(error)
    if stat.S_ISLNK(mode):
        return f"`{name}` is a symbolic link; a bundle holds files only, copy it with `cp -rL`"
    if error.errno == errno.ENXIO:
        return "is no regular file"
    return error.strerror or str(error)


def _require_plain_file(status: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{path}: is no regular file")
    if status.st_nlink != 1:
        raise BundleError(
            f"{path}: has {status.st_nlink} names (hard links), so that it may belong to something "
            f"outside the bundle; copy the bundle with `cp -r`"
        )
