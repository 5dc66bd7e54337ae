"""Writing a bundle whole or not at all.

Everything is built in a temporary directory beside the target and put in its place by one rename,
so whatever happens in between - an error, Ctrl-C, a full disk, a crash - the target is either what
it was before or the new bundle.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType, TracebackType

import msgspec

from edgetok.bundle import swap
from edgetok.bundle.encoders import EncoderManifest
from edgetok.bundle.manifest import MANIFEST_FILE, File, Manifest
from edgetok.bundle.paths import require_safe_path
from edgetok.bundle.reader import open_bundle
from edgetok.bundle.strict import encode_strict
from edgetok.bundle.target import (
    absolute_target,
    clean_stale,
    locked_directory,
    require_free_space,
    require_target,
    target_lock,
    temporary_beside,
)
from edgetok.errors import ResourceError, UsageError

Data = bytes | bytearray | memoryview | Iterable[bytes | memoryview]


class BundleWriter:
    """Collects the files of a bundle and publishes them together.

    >>> with BundleWriter(out) as writer:                                   # doctest: +SKIP
    ...     writer.write("weights/model.bin", chunks)
    ...     digest = writer.publish(manifest)

    Leaving the block without `publish`, or by any exception, leaves the target as it was.

    Args:
        out: path of the bundle.
        force: replace the bundle or empty directory that is there.
        sources: directories that the export reads; the target must not be inside one.
        need_bytes: how large the bundle will be, if known; checked against the free space.

    Raises:
        UsageError: on entering, if the target exists or cannot be one.
        ResourceError: on entering, if there is no space, no permission, or another writer.
    """

    def __init__(
        self,
        out: str | Path,
        *,
        force: bool = False,
        sources: Sequence[str | Path] = (),
        need_bytes: int = 0,
    ) -> None:
        self._out = absolute_target(out)
        self._force = force
        self._sources = tuple(Path(source).absolute() for source in sources)
        self._need_bytes = need_bytes
        self._root = self._out  # until there is a temporary directory
        self._files: dict[str, File] = {}
        self._exit = ExitStack()

    @property
    def files(self) -> Mapping[str, File]:
        """What was written so far, with sizes and hashes."""
        return MappingProxyType(self._files)

    def path_of(self, path: str) -> Path:
        """Where a file that was written stands until publication; "" is the root of the bundle."""
        return self._root / path

    def __enter__(self) -> BundleWriter:
        require_target(self._out, force=self._force, sources=self._sources)
        require_free_space(self._out.parent, self._need_bytes)
        self._root = temporary_beside(self._out)
        with ExitStack() as stack:
            stack.enter_context(target_lock(self._out))
            # Another writer may have published between the check and the lock.
            require_target(self._out, force=self._force, sources=self._sources)
            with suppress(OSError):  # a parent that may be written but not listed
                clean_stale(self._out.parent)
            stack.callback(shutil.rmtree, self._root, ignore_errors=True)
            with _resource_errors(self._root):
                self._root.mkdir()
                stack.enter_context(locked_directory(self._root))
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After an exchange the temporary name holds the old bundle, so removing it is right
        # before and after publication.
        self._exit.close()

    def write(self, path: str, data: Data) -> File:
        """Write one file and have it on disk before returning.

        Args:
            path: plain relative path inside the bundle.
            data: all bytes, or chunks of them.

        Raises:
            ResourceError: if it cannot be written; names the path and how far it came.
            UsageError: if the path was written before.
        """
        require_safe_path(path)
        if path in self._files or path == MANIFEST_FILE:
            raise UsageError(f"{path} is in the bundle already; every file is written once")
        self._files[path] = self._write(path, data)
        return self._files[path]

    def publish(self, manifest: Manifest | EncoderManifest) -> str:
        """Complete the manifest with the files written, and put the bundle in its place.

        The bundle is opened and its graphs are admitted first, as on the target, so nothing is
        published that could not be read.

        Returns:
            The digest of the manifest, which pins every file of the bundle.

        Raises:
            BundleError: if the manifest contradicts itself or a graph is not admitted.
            ResourceError: if it cannot be written or put in place.
            UsageError: if the target came into being meanwhile.
        """
        complete = msgspec.structs.replace(manifest, files=dict(sorted(self._files.items())))
        written = self._write(MANIFEST_FILE, encode_strict(complete))
        bundle = open_bundle(self._root, check_hashes=False)
        for stage in bundle.manifest.stages:
            bundle.graph(stage)
        with _resource_errors(self._out):
            _sync_directories(self._root)
            self._put_in_place()
            _sync(self._out.parent)
        return written.sha256

    def _write(self, path: str, data: Data) -> File:
        target = self._root / path
        progress = _Progress()
        try:
            with _resource_errors(self._out / path, progress):
                target.parent.mkdir(parents=True, exist_ok=True)
                _write_new(target, data, progress)
        except BaseException:
            target.unlink(missing_ok=True)  # half a file is listed nowhere, so nowhere left
            raise
        return File(bytes=progress.bytes, sha256=progress.sha256.hexdigest())

    def _put_in_place(self) -> None:
        # An export takes minutes; what was free when it began may be taken now.
        require_target(self._out, force=self._force, sources=self._sources)
        if self._out.exists():
            swap.put_over(self._root, self._out)
        else:
            swap.put_new(self._root, self._out)


class _Progress:
    """How much of a file is written, and its hash so far."""

    def __init__(self) -> None:
        self.bytes = 0
        self.sha256 = hashlib.sha256()

    def add(self, part: memoryview) -> None:
        self.sha256.update(part)
        self.bytes += len(part)


def _write_new(target: Path, data: Data, progress: _Progress) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(target, flags, 0o644)
    try:
        for chunk in _chunks(data):
            while chunk:
                count = os.write(descriptor, chunk)
                progress.add(chunk[:count])
                chunk = chunk[count:]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _chunks(data: Data) -> Iterator[memoryview]:
    for chunk in (data,) if isinstance(data, bytes | bytearray | memoryview) else data:
        yield memoryview(chunk).cast("B")


@contextmanager
def _resource_errors(path: Path, progress: _Progress | None = None) -> Iterator[None]:
    """Turn what the operating system refuses into an error with a way out."""
    try:
        yield
    except OSError as error:
        after = "" if progress is None else f" after {progress.bytes} bytes"
        raise ResourceError(
            f"{path}: cannot be written{after}: {error.strerror or error}; "
            f"free space, change permissions or choose another output"
        ) from error


def _sync_directories(root: Path) -> None:
    """Have the names on disk, deepest first, so that the last rename publishes all or nothing."""
    for directory, _, _ in os.walk(root, topdown=False):
        _sync(Path(directory))


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
