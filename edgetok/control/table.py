"""What `edgetok bench` measured of a bundle on this device, kept in a per-user cache."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Annotated

import msgspec

from edgetok import limits
from edgetok.errors import ResourceError, UsageError
from edgetok.user_cache import CACHE_VARIABLE, cache_directory

Measured = Annotated[float, msgspec.Meta(ge=0)]


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One rung as measured; times in milliseconds, memory of the process at its peak.

    Args:
        energy_j: joules of an answer; None where the device reports none.
    """

    budget: Annotated[int, msgspec.Meta(ge=1)]
    ttft_ms_p50: Measured
    ttft_ms_p95: Measured
    decode_ms_p50: Measured
    memory_mib: Measured
    energy_j: Measured | None = None


class BenchTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rows of one bundle on one device.

    Args:
        bundle_digest: sha256 of the bundle's manifest, in hex.
        device: as given to `edgetok.load`, such as "cpu" or "cuda:0".
    """

    bundle_digest: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    device: Annotated[str, msgspec.Meta(min_length=1, max_length=120)]
    rows: tuple[Row, ...]

    def row(self, budget: int) -> Row | None:
        """The measurement of this rung, if there is one."""
        return next((row for row in self.rows if row.budget == budget), None)


def table_path(bundle_digest: str, device: str) -> Path:
    """The file of a table; any device name makes a harmless file name."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", f"{bundle_digest}-{device}")
    return cache_directory() / "bench" / f"{name}.json"


def save_table(table: BenchTable) -> Path:
    """Write the table whole or not at all, and return its path.

    Raises:
        ResourceError: if the cache cannot be written.
    """
    path = table_path(table.bundle_digest, table.device)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, msgspec.json.format(msgspec.json.encode(table), indent=2))
    except OSError as error:
        raise ResourceError(
            f"cannot write the measurements to {path}: {error.strerror}; "
            f"set {CACHE_VARIABLE} to a directory that can be written"
        ) from error
    return path


def load_table(bundle_digest: str, device: str) -> BenchTable:
    """Read what was measured of this bundle on this device.

    Raises:
        UsageError: if there is no table, or it cannot be read or belongs to something else; says
            to run `edgetok bench`.
    """
    path = table_path(bundle_digest, device)
    try:
        table = msgspec.json.decode(_read(path), type=BenchTable)
    except FileNotFoundError:
        raise _unmeasured(f"this bundle was never measured on {device!r}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise _unmeasured(f"the measurements in {path} cannot be read ({error})") from error
    if (table.bundle_digest, table.device) != (bundle_digest, device):
        raise _unmeasured(f"the measurements in {path} are of another bundle or device")
    return table


def _unmeasured(what: str) -> UsageError:
    return UsageError(f"{what}; run `edgetok bench BUNDLE` here to use a time or memory limit")


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(limits.MANIFEST_BYTES + 1)
    if len(data) > limits.MANIFEST_BYTES:  # 64 rows need about 10 KiB
        raise ValueError(f"larger than {limits.MANIFEST_BYTES} bytes")
    return data


def _replace(path: Path, data: bytes) -> None:
    """Write beside `path`, then rename: readers see the old file or the new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".bench-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
