"""`edgetok calibrate`: a controller whose risk is certified, written into the bundle."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import typer
from rich.table import Table

from edgetok.calibration.certify import Aim
from edgetok.cli.options import BundleDir, Data, Json, Threads, with_options
from edgetok.cli.output import emit, say, table, working

if TYPE_CHECKING:
    from edgetok.calibration.certify import Found


@with_options
def calibrate_command(
    bundle: BundleDir,
    data: Data,
    aim: Aim,
    count: Annotated[
        int | None, typer.Option(help="Ask this many samples, drawn evenly over the kinds.")
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option(
            help="File of answers so far; one per bundle in the user's cache if left out."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what was found and leave the bundle as it is.")
    ] = False,
    flavour: Annotated[
        Literal["ort", "portable"],
        typer.Option(help="Which graphs answer, if the bundle was exported with both."),
    ] = "ort",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Certify how much a controller of smaller rungs may lose, and write it into the bundle.

    Every rung answers every sample once. Half of the images choose a policy, the other half tests
    it: with the given confidence its expected loss is at most the risk, on samples like these. An
    interrupted run goes on where it was. Afterwards the bundle's controller answers wherever no
    rung is asked for.

    Example: edgetok calibrate out.bundle --data samples.jsonl --risk 0.02 --confidence 0.95
    """
    from edgetok.calibration import samples as sampling

    samples = sampling.load_samples(data)
    chosen = samples if count is None else sampling.draw(samples, count, aim.seed)
    with working(as_json) as progress:
        from edgetok.runtimes.calibrate import calibrate

        found = calibrate(
            bundle,
            chosen,
            aim,
            threads=threads,
            flavour=flavour,
            records=records,
            write=not dry_run,
            progress=progress,
        )
    emit(_describe(found), as_json, *_show(found, aim))
    if found.controller is not None and not dry_run:
        say(f"controller written into {bundle}; it answers where no rung is asked for")


def _describe(found: Found) -> dict[str, Any]:
    certificate = None if found.controller is None else found.controller.certificate
    return {
        "path": found.path,
        "certificate": msgspec.to_builtins(certificate),
        "rungs": [asdict(row) for row in found.rows],
        "samples_wanted": found.samples_wanted,  # in pictures
        "images": found.images,
    }


def _show(found: Found, aim: Aim) -> list[Table | str]:
    shown = table(
        f"{len(found.test)} questions that nothing was learned from",
        *("rung", ">visual tokens", ">ms", ">% lost", ">% right"),
    )
    for row in found.rows:
        right = "" if row.right is None else f"{100 * row.right:.1f}"
        figures = f"{row.tokens:.1f}", f"{row.ms:.1f}", f"{100 * row.lost:.2f}", right
        shown.add_row(row.name, *figures)
    return [shown, _explain(found, aim)]


def _have(found: Found) -> int:
    """Pictures that are missing."""
    return max(0, (found.samples_wanted or 0) - found.images)


def _explain(found: Found, aim: Aim) -> str:
    promise = f"a risk of {100 * aim.risk:.3g} % with {100 * aim.confidence:.3g} % confidence"
    if found.controller is not None:
        return f"certified: {found.path}, for {promise} (p = {found.p_value:.2g})"
    if found.samples_wanted is None:
        why = "it loses too much on these questions for any number of samples"
    else:
        why = (
            f"about {found.samples_wanted} pictures would certify it, {_have(found)} more than "
            "here, were losses as here"
        )
    return f"not certified for {promise}: {found.path}; {why}. The full rung goes on answering."
