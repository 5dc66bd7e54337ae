"""Opening a bundle: nothing is used before its size and its hash agree with the manifest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from edgetok import limits
from edgetok.bundle.admitted import require_admitted
from edgetok.bundle.encoder_parse import parse_encoder_manifest
from edgetok.bundle.encoders import EncoderManifest
from edgetok.bundle.manifest import (
    MANIFEST_FILE,
    File,
    Manifest,
    Stage,
    count_rows,
    list_shorter,
)
from edgetok.bundle.parse import ANSWER, parse_manifest, read_task
from edgetok.bundle.paths import open_beneath
from edgetok.bundle.processor import TOKENIZER_FILE
from edgetok.bundle.strict import require_plain_json, shorten
from edgetok.errors import BundleError
from edgetok.ladder import Ladder, Rung

_CHUNK_BYTES = 1 << 20
_WAY_OUT = "copy or export the bundle again"
AnyManifest = TypeVar("AnyManifest", Manifest, EncoderManifest)


@dataclass(frozen=True, slots=True)
class _Identity:
    """Which file was checked, so that another one in its place is noticed."""

    device: int
    inode: int
    bytes: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, descriptor: int) -> _Identity:
        status = os.fstat(descriptor)
        return cls(
            status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        )


@dataclass(frozen=True, slots=True)
class Opened(Generic[AnyManifest]):
    """Any bundle whose files were checked.

    Attributes:
        root: absolute path of the directory.
        manifest: what the bundle says about itself.
        digest: sha256 of the manifest's bytes; pins every file of the bundle.
    """

    root: Path
    manifest: AnyManifest
    digest: str
    _checked: Mapping[str, _Identity]

    def read(self, path: str) -> bytes:
        """The bytes of a listed file; what is returned is what was hashed.

        Raises:
            BundleError: if it is not listed, larger than can be read whole, or was changed.
        """
        file = self._file(path)
        if file.bytes > limits.BUNDLE_READ_BYTES:
            raise BundleError(
                f"{path}: {file.bytes} bytes; at most {limits.BUNDLE_READ_BYTES} are read whole"
            )
        with _opened_root(self.root) as root_fd, _opened(root_fd, path, file) as descriptor:
            data = _read_up_to(descriptor, file.bytes)
        _require_hash(path, file, hashlib.sha256(data).hexdigest())
        return data

    def path_of(self, path: str) -> Path:
        """Where a listed file lies, for libraries that open it by name.

        Raises:
            BundleError: if it is not listed, or is not the file that `open` checked.
        """
        file = self._file(path)
        with _opened_root(self.root) as root_fd, _opened(root_fd, path, file) as descriptor:
            if _Identity.of(descriptor) != self._checked[path]:
                raise BundleError(f"{path}: was changed after the bundle was opened; open it again")
        return self.root / path

    def stage(self, stage: str, budget: int, flavour: str = "ort") -> Stage:
        """The graph that serves a rung, its own or the one that all rungs share.

        Where there are several, of prompts or chunks of other lengths, it is the longest.

        Raises:
            BundleError: if the bundle has no graph of this stage, rung and flavour.
        """
        return self.stages(stage, budget, flavour)[0]

    def stages(self, stage: str, budget: int, flavour: str = "ort") -> list[Stage]:
        """All graphs of a stage that serve a rung, the longest first; raises as `stage`."""
        found = [
            each
            for each in self.manifest.stages
            if (each.stage, each.flavour) == (stage, flavour) and each.budget in (None, budget)
        ]
        if found:
            return sorted(found, key=count_rows, reverse=True)
        raise BundleError(
            f"no {flavour} graph of stage {stage} for {budget} visual tokens; "
            f"this bundle has rungs {tuple(rung.budget for rung in self.manifest.ladder)}"
        )

    def graph(self, stage: Stage) -> bytes:
        """The bytes of an admitted graph, to make a session of.

        Raises:
            BundleError: if the file was changed or the graph is not admitted.
        """
        if self._file(stage.file).bytes > limits.GRAPH_BYTES:
            raise BundleError(f"{stage.file}: a graph has at most {limits.GRAPH_BYTES} bytes")
        data = self.read(stage.file)
        require_admitted(data, stage, self.manifest.files)
        return data

    def tokenizer(self) -> bytes:
        """The bytes of `tokenizer.json`.

        Raises:
            BundleError: if it is too large, or was changed.
        """
        size_bytes = self._file(TOKENIZER_FILE).bytes
        if size_bytes > limits.TOKENIZER_BYTES:
            raise BundleError(
                f"{TOKENIZER_FILE}: {size_bytes} bytes; a tokenizer has at most "
                f"{limits.TOKENIZER_BYTES}"
            )
        return self.read(TOKENIZER_FILE)

    def _file(self, path: str) -> File:
        try:
            return self.manifest.files[path]
        except KeyError:
            raise BundleError(
                f"`{shorten(path)}` is not listed in the manifest, so it is not part of the bundle"
            ) from None


@dataclass(frozen=True, slots=True)
class Bundle(Opened[Manifest]):
    """A bundle that answers questions; made by `Bundle.open`.

    Attributes:
        ladder: its rungs, ascending.
    """

    @classmethod
    def open(cls, path: str | Path, *, check_hashes: bool = True) -> Bundle:
        """Read the manifest and check every listed file.

        Args:
            check_hashes: False checks sizes only and starts faster; `read` and `graph` check the
                hash of what they return all the same, weights are then taken on trust.

        Raises:
            BundleError: if the bundle is missing, incomplete, malformed or damaged.
            UsageError: if it has no language model.
        """
        return cls(*_open(path, parse_manifest, check_hashes))

    @property
    def ladder(self) -> Ladder:
        """Its rungs, ascending."""
        shorter = list_shorter(self.manifest)
        rungs = (
            Rung(r.budget, r.prompt_tokens, r.cache_slots, shorter[r.budget])
            for r in self.manifest.ladder
        )
        return Ladder(tuple(rungs))


@dataclass(frozen=True, slots=True)
class EncoderBundle(Opened[EncoderManifest]):
    """A bundle of an encoder without a language model; made by `EncoderBundle.open`."""

    @classmethod
    def open(cls, path: str | Path, *, check_hashes: bool = True) -> EncoderBundle:
        """As `Bundle.open`.

        Raises:
            BundleError: if the bundle is missing, incomplete, malformed or damaged.
            UsageError: if it answers questions.
        """
        return cls(*_open(path, parse_encoder_manifest, check_hashes))

    @property
    def budgets(self) -> tuple[int, ...]:
        """Those of its rungs, ascending."""
        return tuple(rung.budget for rung in self.manifest.ladder)


def open_bundle(path: str | Path, *, check_hashes: bool = True) -> Bundle | EncoderBundle:
    """Open a bundle of either kind, as its manifest says.

    Raises:
        BundleError: if the bundle is missing, incomplete, malformed or damaged.
    """
    kind = Bundle if task_of(path) == ANSWER else EncoderBundle
    return kind.open(path, check_hashes=check_hashes)


def task_of(path: str | Path) -> str:
    """What a bundle is for, by its manifest alone: `answer`, or the task of an encoder.

    Raises:
        BundleError: if there is no bundle, or its manifest is malformed.
    """
    root = Path(path).absolute()
    with _opened_root(root) as root_fd:
        data = _read_manifest(root_fd, root)
    require_plain_json(data, MANIFEST_FILE, limits.MANIFEST_BYTES)
    return read_task(data)


def _open(
    path: str | Path, parse: Callable[[bytes], AnyManifest], check_hashes: bool
) -> tuple[Path, AnyManifest, str, dict[str, _Identity]]:
    root = Path(path).absolute()
    with _opened_root(root) as root_fd:
        data = _read_manifest(root_fd, root)
        manifest = parse(data)
        checked = {
            name: _check(root_fd, name, file, check_hashes) for name, file in manifest.files.items()
        }
    return root, manifest, hashlib.sha256(data).hexdigest(), checked


@contextmanager
def _opened_root(root: Path) -> Iterator[int]:
    try:
        root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise BundleError(f"{root}: no such directory; give the path of a bundle") from None
    except NotADirectoryError:
        raise BundleError(f"{root}: not a directory; a bundle is one") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise BundleError(f"{shorten(str(root))}: cannot be opened: {error}") from error
    try:
        yield root_fd
    finally:
        os.close(root_fd)


def _read_manifest(root_fd: int, root: Path) -> bytes:
    try:
        os.stat(MANIFEST_FILE, dir_fd=root_fd, follow_symlinks=False)
    except FileNotFoundError:
        raise BundleError(
            f"{root}: incomplete, there is no {MANIFEST_FILE}; an export was interrupted or this "
            f"is not a bundle; {_WAY_OUT}"
        ) from None
    except OSError as error:
        raise BundleError(f"{root}: cannot be read: {error.strerror or error}") from error
    descriptor = open_beneath(root_fd, MANIFEST_FILE)
    try:
        with _read_errors(MANIFEST_FILE):
            return _read_up_to(descriptor, limits.MANIFEST_BYTES + 1)
    finally:
        os.close(descriptor)


@contextmanager
def _opened(root_fd: int, path: str, file: File) -> Iterator[int]:
    """A descriptor of a listed file of the listed size."""
    descriptor = open_beneath(root_fd, path)
    try:
        actual_bytes = os.fstat(descriptor).st_size
        if actual_bytes != file.bytes:
            raise BundleError(
                f"{path}: {actual_bytes} bytes, but the manifest says {file.bytes}; {_WAY_OUT}"
            )
        with _read_errors(path):
            yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _read_errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # a failing disk or network share
        raise BundleError(f"{what}: cannot be read: {error.strerror or error}") from error


def _check(root_fd: int, path: str, file: File, check_hash: bool) -> _Identity:
    with _opened(root_fd, path, file) as descriptor:
        identity = _Identity.of(descriptor)
        if check_hash:
            with os.fdopen(descriptor, "rb", closefd=False) as stream:
                _require_hash(path, file, hashlib.file_digest(stream, "sha256").hexdigest())
        return identity


def _require_hash(path: str, file: File, actual: str) -> None:
    if actual != file.sha256:
        raise BundleError(
            f"{path}: damaged or changed; sha256 is {actual}, but the manifest says "
            f"{file.sha256}; {_WAY_OUT}"
        )


def _read_up_to(descriptor: int, limit_bytes: int) -> bytes:
    """Read to the end, but never more than `limit_bytes`, even if the file grows meanwhile."""
    chunks = []
    remaining = limit_bytes
    while remaining and (chunk := os.read(descriptor, min(_CHUNK_BYTES, remaining))):
        chunks.append(chunk)
        remaining -= len(chunk)
    return b"".join(chunks)
