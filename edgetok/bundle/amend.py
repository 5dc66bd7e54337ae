"""Giving a finished bundle a controller: the manifest is replaced in one step, nothing else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec

from edgetok.bundle.manifest import MANIFEST_FILE, encode_manifest
from edgetok.bundle.parse import parse_manifest
from edgetok.bundle.reader import Bundle
from edgetok.bundle.target import locked_directory, target_lock, temporary_beside
from edgetok.errors import ResourceError
from edgetok.rules import Controller


def put_controller(bundle: Bundle, controller: Controller | None) -> str:
    """Write the manifest again with this controller; returns its new digest.

    Raises:
        BundleError: if the certificate speaks of another bundle, or of rungs that it lacks.
        ResourceError: if the bundle cannot be written, or another process writes it.
    """
    data = encode_manifest(msgspec.structs.replace(bundle.manifest, controller=controller))
    parse_manifest(data)
    temporary = temporary_beside(bundle.root)
    with target_lock(bundle.root):
        try:
            temporary.mkdir()
            with locked_directory(temporary):
                _replace(temporary / MANIFEST_FILE, bundle.root / MANIFEST_FILE, data)
        except OSError as error:
            raise ResourceError(
                f"{bundle.root / MANIFEST_FILE}: cannot be written: {error.strerror or error}; "
                "free space or change permissions; the bundle is as it was"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return Bundle.open(bundle.root, check_hashes=False).digest


def _replace(new: Path, old: Path, data: bytes) -> None:
    with new.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.replace(old)
