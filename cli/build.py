"""`edgetok build`: engines of TensorRT from a bundle's portable graphs, into this user's cache."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from edgetok.cli.options import BundleDir, Json
from edgetok.cli.output import Report, emit, table, working
from edgetok.errors import UsageError

if TYPE_CHECKING:
    from edgetok.engines.builder import BuiltEngine, EngineBuilder
    from edgetok.engines.plan import EngineJob

_SHIFTS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


def build_command(
    bundle: BundleDir,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="KIND[:GPU,…]",
            help="tensorrt for this machine's GPU, or rtx:sm75,sm86 for GPUs elsewhere; what is "
            "installed.",
        ),
    ] = None,
    precision: Annotated[
        Literal["fp32", "fp16", "bf16"], typer.Option(help="Precision of matrix products.")
    ] = "fp16",
    max_build_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Most memory that a build may need, such as 4GiB."),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Build what is in the cache already, too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Build the engines that `edgetok run --device tensorrt` opens.

    TensorRT for RTX builds for GPUs that need not be here; tensorrt builds for the one that is.

    Example: edgetok build out.bundle --target rtx:sm75,sm86
    """
    from edgetok.bundle.reader import Bundle
    from edgetok.engines.builder import EngineBuilder
    from edgetok.engines.cache import EngineCache
    from edgetok.engines.device import find_device, import_cuda
    from edgetok.engines.plan import plan_engines
    from edgetok.engines.toolkit import find_toolkit, parse_target

    wanted, limit = parse_target(target), parse_size(max_build_memory)
    toolkit = find_toolkit(wanted.kind)
    opened = Bundle.open(bundle)
    jobs = plan_engines(opened, flavour="portable", precision=precision, max_build_bytes=limit)
    device = None if wanted.capabilities else find_device(import_cuda())
    with working(as_json) as report:
        progress = _Overall(report, len(jobs))
        builder = EngineBuilder(opened, toolkit, wanted, EngineCache(), device, progress)
        made = [_build(builder, job, again, progress) for job in jobs]
    fields = {
        "target": str(wanted),
        "toolkit": toolkit.title,
        "precision": precision,
        "cache": EngineCache().directory,
        "engines": [_row(each) for each in made],
        "bytes": sum(each.bytes for each in made),
        "seconds": round(sum(each.seconds for each in made), 1),
    }
    emit(fields, as_json, _show(fields), *_conclude(fields))


def parse_size(text: str | None) -> int | None:
    """Bytes of a size as users write it; None if there is none.

    Raises:
        UsageError: for anything else.

    >>> parse_size("4GiB")
    4294967296
    """
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if found is None or float(found[1]) == 0:
        raise UsageError(f"--max-build-memory {text!r} is no size; write it like 4GiB or 900MiB")
    return int(float(found[1]) * (1 << _SHIFTS[found[2]]))


class _Overall:
    """Turns the share of one engine into that of all of them."""

    def __init__(self, report: Report, count: int) -> None:
        self.done, self._report, self._count = 0, report, count

    def __call__(self, doing: str, share: float) -> None:
        self._report(f"engine of {doing}", (self.done + share) / self._count)


def _build(builder: EngineBuilder, job: EngineJob, again: bool, progress: _Overall) -> BuiltEngine:
    progress(f"{job.name}, about {job.peak_bytes >> 20} MiB of memory", 0.0)
    made = builder.build(job, again=again)
    progress.done += 1
    return made


def _row(made: BuiltEngine) -> dict[str, Any]:
    job = made.job
    return {
        "engine": job.name,
        "budgets": [stage.bucket for stage in job.stages if stage.bucket is not None],
        "bytes": made.bytes,
        "seconds": round(made.seconds, 1),
        "cached": not made.seconds,
        "predicted_peak_mib": job.peak_bytes >> 20,
    }


def _show(fields: dict[str, Any]) -> Table:
    shown = table(f"Engines of {fields['toolkit']}", "engine", "rungs", ">MiB", ">seconds")
    for row in fields["engines"]:
        rungs = " ".join(map(str, row["budgets"])) or "all"
        seconds = "cached" if row["cached"] else f"{row['seconds']:.1f}"
        shown.add_row(row["engine"], rungs, f"{row['bytes'] / (1 << 20):.1f}", seconds)
    return shown


def _conclude(fields: dict[str, Any]) -> list[str]:
    return [
        f"{fields['bytes'] / (1 << 20):.1f} MiB for {fields['target']} in {fields['seconds']} s, "
        f"in {Path(fields['cache'])}",
    ]
