"""TidalDecode, whose steps read a part of the cache: what an export must know of it."""

from __future__ import annotations

from edgetok.errors import UsageError
from edgetok.export.caches.tidaldecode.reference import ReadingReference
from edgetok.export.stages.prompt_reduced import require_plain_attention
from edgetok.families.parts import TextParts
from edgetok.kv import READINGS, Policy, Reading, Reads, make_reads
from edgetok.ladder import Ladder
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


def require_readable(text: TextParts, reading: Reading | None) -> None:
    """Refuse a decoder whose attention is more than shared rows can spell.

    Raises:
        IncompatibleError: naming what it has.
    """
    if reading is not None:
        require_plain_attention(text, reading.name, "use --kv-policy none")


def shape_reads(
    reading: Reading | None, count: int | None, ladder: Ladder, text: TextParts
) -> Reads | None:
    """Constants of a reading in a model; None where there is none.

    Raises:
        UsageError: if the model has too few layers, or the cache too few rows.
    """
    if reading is None:
        return None
    return make_reads(reading, count, ladder.largest.cache_slots, len(text.layers))


def eager_reads(text: TextParts, reads: Reads, ladder: Ladder) -> ReadingReference:
    """What graphs of a reading are held against."""
    return ReadingReference(text, reads, ladder.largest.cache_slots)
