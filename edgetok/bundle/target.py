"""Where a bundle may be written: checks before any work, the lock, and what crashes left after."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from edgetok import limits
from edgetok.bundle.manifest import MANIFEST_FILE
from edgetok.bundle.paths import require_unicode_path
from edgetok.errors import ResourceError, UsageError

_TEMPORARY = re.compile(r".+\.tmp-([1-9][0-9]{0,9})-[0-9a-f]{8}")


_NAME_BYTES = 220  # of 255, for the suffixes of the lock and of temporary directories


class _AnyManifest(msgspec.Struct):
    """What tells a bundle of any version from a stranger's directory."""

    format_version: int
    producer: str
    files: dict[str, object]


def require_target(out: Path, *, force: bool, sources: Sequence[Path] = ()) -> None:
    """Refuse an output path that could not be published to, before any work is done.

    Args:
        out: absolute path of the bundle to be.
        force: replace an existing bundle or empty directory.
        sources: directories that are read, which the bundle must neither enter nor replace.

    Raises:
        UsageError: naming what is in the way and the way out.
        ResourceError: if the parent directory cannot be written to.
    """
    try:
        _require_place(out)
        for source in sources:
            _require_apart(out, source)
        if os.path.lexists(out):
            _require_replaceable(out, force)
    except OSError as error:
        raise ResourceError(f"{out}: cannot be written to: {error.strerror or error}") from error
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise ResourceError(f"{out.parent} cannot be written to; change its permissions")


def absolute_target(out: str | Path) -> Path:
    """The absolute form of an output path; its last component may still be a link.

    Raises:
        UsageError: if it cannot be a path of this system.
    """
    try:
        path = Path(out).absolute()
        path = path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name
        name_bytes = len(os.fsencode(path.name))
        if "\0" in path.name:
            raise ValueError("it contains a NUL character")
    except (OSError, ValueError, RuntimeError) as error:  # NUL, endless links
        raise UsageError(f"output {str(out)!a} is no usable path: {error}") from error
    if name_bytes > _NAME_BYTES:
        raise UsageError(f"output name {path.name} has more than {_NAME_BYTES} bytes; shorten it")
    require_unicode_path(path)
    return path


def require_free_space(directory: Path, need_bytes: int) -> None:
    """Refuse to start what would not fit.

    Raises:
        ResourceError: with the bytes needed and the bytes free.
    """
    need_bytes = int(need_bytes * limits.FREE_SPACE_FACTOR)
    free_bytes = shutil.disk_usage(directory).free
    if free_bytes < need_bytes:
        raise ResourceError(
            f"{directory}: the bundle needs about {need_bytes} bytes, but {free_bytes} are free; "
            f"free some or choose another output"
        )


@contextmanager
def target_lock(out: Path) -> Iterator[None]:
    """Hold `<out>.lock`, so that one export at a time writes a bundle.

    Raises:
        ResourceError: if another process holds it; names its process id.
    """
    path = out.with_name(f"{out.name}.lock")
    descriptor = _locked(path)
    try:
        with suppress(OSError):  # on a full disk the lock holds all the same, without a name
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # while it is still held: see `_locked`
        os.close(descriptor)


def temporary_beside(out: Path) -> Path:
    """A name for the directory in which `out` grows, that no other writer uses."""
    return out.with_name(f"{out.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")


def clean_stale(directory: Path) -> list[Path]:
    """Remove temporary directories whose writer was killed; returns them.

    One is stale if no process has the id in its name and nobody holds it open under a lock (its
    writer may run in another container and have its id there).
    """
    stale = []
    for path in sorted(directory.iterdir()):
        match = _TEMPORARY.fullmatch(path.name)
        if match and path.is_dir() and not path.is_symlink() and not _is_alive(int(match[1])):
            with suppress(OSError), locked_directory(path):
                shutil.rmtree(path)
                stale.append(path)
    return stale


@contextmanager
def locked_directory(path: Path) -> Iterator[None]:
    """Hold a directory so that `clean_stale` of any process leaves it alone.

    Raises:
        OSError: if another process holds it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _require_place(out: Path) -> None:
    if out.is_symlink():
        raise UsageError(f"{out} is a symbolic link; give the path it points to")
    if not out.parent.exists():
        raise UsageError(f"{out.parent} does not exist; create it, or choose another output")
    if not out.parent.is_dir():
        raise UsageError(f"{out.parent} is a file, so no bundle can be put into it")


def _require_apart(out: Path, source: Path) -> None:
    resolved_out, resolved_source = out.resolve(), source.resolve()
    if resolved_out.is_relative_to(resolved_source):
        raise UsageError(f"{out} is inside {source}, which is read; choose an output outside it")
    if resolved_source.is_relative_to(resolved_out):
        raise UsageError(f"{out} contains {source}, which is read; choose another output")


def _require_replaceable(out: Path, force: bool) -> None:
    if not out.is_dir():
        raise UsageError(f"{out} exists and is no directory; choose another output")
    if not force:
        raise UsageError(f"{out} exists; use --force to replace it, or choose another output")
    if any(out.iterdir()) and not _is_bundle(out):
        raise UsageError(
            f"{out} is neither a bundle nor empty, so --force does not delete it; "
            f"remove it yourself or choose another output"
        )


def _is_bundle(directory: Path) -> bool:
    """Whether edgetok of any version published this directory; damage inside does not matter."""
    try:
        with (directory / MANIFEST_FILE).open("rb") as stream:
            data = stream.read(limits.MANIFEST_BYTES + 1)
        msgspec.json.decode(data, type=_AnyManifest)
    except (OSError, msgspec.DecodeError, UnicodeError):
        return False
    return len(data) <= limits.MANIFEST_BYTES


def _locked(path: Path) -> int:
    """Open and lock a file that its last holder may be removing.

    A holder unlinks the file before letting go, so a lock on a file that no longer has the name is
    worth nothing: then try again with the file that has it.
    """
    while True:
        descriptor = _open_lock(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_named(descriptor, path):
                return descriptor
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise ResourceError(
                f"{path}: process {holder or 'unknown'} is writing this bundle; "
                f"wait for it or choose another output"
            ) from None
        except OSError as error:
            os.close(descriptor)
            raise ResourceError(f"{path}: cannot lock the output: {error.strerror}") from error
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except OSError as error:
        raise ResourceError(f"{path}: cannot lock the output: {error.strerror}") from error


def _is_named(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
