"""The only way into a manifest: bytes that are strict JSON, of this format, and agree."""

from __future__ import annotations

import msgspec

from edgetok import limits
from edgetok.bundle.contradictions import find_contradictions
from edgetok.bundle.manifest import FORMAT_VERSION, MANIFEST_FILE, Manifest
from edgetok.bundle.strict import require_plain_json, shorten
from edgetok.errors import BundleError


class _Header(msgspec.Struct, frozen=True):
    """What every version of the format has; enough to say who can read the rest."""

    format_version: int
    producer: str = "an unknown program"


def parse_manifest(data: bytes) -> Manifest:
    """Decode and check `manifest.json`.

    Raises:
        BundleError: naming the JSON path of what is malformed, or all contradictions at once.
    """
    require_plain_json(data, MANIFEST_FILE, limits.MANIFEST_BYTES)
    manifest = _decode(data)
    if found := list(find_contradictions(manifest)):
        shown = "; ".join(found[:8]) + (f"; and {len(found) - 8} more" if len(found) > 8 else "")
        raise BundleError(f"{MANIFEST_FILE}: {shown}")
    return manifest


def _decode(data: bytes) -> Manifest:
    try:
        header = msgspec.json.decode(data, type=_Header)
        if header.format_version > FORMAT_VERSION:  # before the fields, which may be unknown here
            raise BundleError(
                f"{MANIFEST_FILE}: written by {shorten(header.producer)} in format "
                f"{header.format_version}; this edgetok reads up to {FORMAT_VERSION}; "
                f"upgrade edgetok"
            )
        return msgspec.json.decode(data, type=Manifest, strict=True)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise BundleError(f"{MANIFEST_FILE}: {shorten(str(error), 400)}") from error
