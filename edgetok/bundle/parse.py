"""The only way into a manifest: bytes that are strict JSON, of this format, and agree."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from edgetok import limits
from edgetok.bundle.contradictions import find_contradictions
from edgetok.bundle.manifest import FORMAT_VERSION, MANIFEST_FILE, Manifest
from edgetok.bundle.strict import require_plain_json, shorten
from edgetok.errors import BundleError, UsageError

ANSWER = "answer"  # the task of a bundle that names none
_M = TypeVar("_M")


class _Header(msgspec.Struct, frozen=True):
    """What every version of the format has; enough to say who can read the rest."""

    format_version: int
    producer: str = "an unknown program"
    task: str = ANSWER


def parse_manifest(data: bytes) -> Manifest:
    """Decode and check `manifest.json`.

    Raises:
        BundleError: naming the JSON path of what is malformed, or all contradictions at once.
    """
    require_plain_json(data, MANIFEST_FILE, limits.MANIFEST_BYTES)
    if (task := read_task(data)) != ANSWER:
        raise UsageError(
            f"this bundle has no language model; its task is {shorten(task)}: `edgetok run BUNDLE "
            "--image FILE` and edgetok.load_encoder use it"
        )
    manifest = decode_manifest(data, Manifest)
    require_agreement(find_contradictions(manifest))
    return manifest


def read_task(data: bytes) -> str:
    """What a manifest says that its bundle is for; `answer` if it says nothing.

    Raises:
        BundleError: if it is no manifest, or of a later format.
    """
    return _read_header(data).task


def require_agreement(problems: Iterable[str]) -> None:
    """Raise a BundleError with the first of them, if there are any."""
    if found := list(problems):
        shown = "; ".join(found[:8]) + (f"; and {len(found) - 8} more" if len(found) > 8 else "")
        raise BundleError(f"{MANIFEST_FILE}: {shown}")


def _read_header(data: bytes) -> _Header:
    """Decoded before the other fields, which may be unknown here."""
    try:
        header = msgspec.json.decode(data, type=_Header)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise BundleError(f"{MANIFEST_FILE}: {shorten(str(error), 400)}") from error
    if header.format_version > FORMAT_VERSION:
        raise BundleError(
            f"{MANIFEST_FILE}: written by {shorten(header.producer)} in format "
            f"{header.format_version}; this edgetok reads up to {FORMAT_VERSION}; upgrade edgetok"
        )
    return header


def decode_manifest(data: bytes, kind: type[_M]) -> _M:
    """All fields of a manifest of this kind.

    Raises:
        BundleError: naming the JSON path of what is malformed.
    """
    try:
        return msgspec.json.decode(data, type=kind, strict=True)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise BundleError(f"{MANIFEST_FILE}: {shorten(str(error), 400)}") from error
