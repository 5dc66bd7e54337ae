"""TidalDecode, whose steps read a part of the cache: what an export must know of it."""

from __future__ import annotations

from edgetok.errors import UsageError
from edgetok.kv import READINGS, Policy, Reading
from edgetok.prefill import Prefill

PRECISIONS = ("fp32", "int8", "int4")  # of caches whose rows can be read one by one


def find_reading(name: str | Policy | Reading) -> Reading | None:
    """The reading of that name or given as itself; None where a policy or nothing is asked for."""
    if isinstance(name, Reading):
        return name
    return READINGS.get(name) if isinstance(name, str) else None


def require_reading_alone(
    reading: Reading | None,
    count: int | None,
    slots: int | None,
    kv: str,
    reduction: Prefill | None,
) -> None:
    """Refuse what a reading cannot be combined with, and a number of rows without one.

    Raises:
        UsageError: naming both and the way out.
    """
    if reading is None:
        if count is not None:
            raise UsageError(
                f"{count} rows to read need a policy that chooses them; add --kv-policy "
                f"{', '.join(READINGS)} or leave --kv-reads out"
            )
        return
    if count is not None and count < 1:
        raise UsageError(f"{count} rows to read are none; give --kv-reads 1 or more")
    if slots is not None:
        raise UsageError(
            f"{reading.name} gives up no row, so that its cache cannot have {slots} slots; leave "
            "--kv-slots out, or lower --new-tokens for a shorter cache"
        )
    if kv not in PRECISIONS:
        raise UsageError(
            f"{reading.name} reads single rows and a {kv} cache keeps none by itself; use --kv "
            f"{', '.join(PRECISIONS)} or --kv-policy none"
        )
    if reduction is not None:
        raise UsageError(
            f"{reading.name} lets layers share rows and {reduction.name} takes rows away between "
            "them; use --prefill or --kv-policy"
        )
