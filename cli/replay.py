"""`edgetok replay`: the decisions of a trace once more, by the same or another policy."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from edgetok.cli.options import BundleDir, Device, Json
from edgetok.cli.output import emit, table
from edgetok.errors import InputError

if TYPE_CHECKING:
    from edgetok.control import Pace, Policy
    from edgetok.control.trace import Entry, Repeated
    from edgetok.rules import Controller


def replay_command(
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="Written by edgetok run --trace.")],
    bundle: BundleDir,
    budget: Annotated[int | None, typer.Option(help="This rung for all.")] = None,
    max_ttft_ms: Annotated[
        float | None, typer.Option(help="The largest rung measured to be this quick.")
    ] = None,
    max_memory_mib: Annotated[
        float | None, typer.Option(help="The largest rung measured to need no more memory.")
    ] = None,
    max_energy_j: Annotated[
        float | None, typer.Option(help="The largest rung measured to need no more energy.")
    ] = None,
    signal: Annotated[
        Literal["elbow"] | None, typer.Option(help="Let the image choose, by this signal.")
    ] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Decide every question of a trace again, without running a graph.

    Without a choice of policy the bundle's controller decides, as it did when the trace was
    written. A rung whose answer was not seen then is counted, but whether its answer would have
    been taken is not known.
    """
    from edgetok.bundle.manifest import digest_content
    from edgetok.bundle.reader import Bundle
    from edgetok.control import Pace, load_table
    from edgetok.control.trace import load_trace, repeat
    from edgetok.runtimes.answers.request import Choice

    entries = load_trace(trace)
    opened = Bundle.open(bundle, check_hashes=False)
    content = digest_content(opened.manifest)
    if strangers := sum(entry.bundle != content for entry in entries):
        raise InputError(
            f"{strangers} of {len(entries)} lines of {trace} were written with another bundle than "
            f"{bundle}; give the one that answered"
        )
    choice = Choice(budget, max_ttft_ms, max_memory_mib, signal, max_energy_j)
    table = load_table(content, device) if choice.is_limited else None

    def begin() -> tuple[Policy, Pace | None]:
        pace = None if table is None else Pace(table)
        return choice.policy(opened.ladder, pace, opened.manifest.controller), pace

    repeated = repeat(begin, opened.ladder, entries)
    drift, warning = _watch(entries, opened.manifest.controller)
    fields = _describe(entries, repeated) | drift
    emit(fields, as_json, _show(entries, repeated), _summarise(repeated) + warning)


def _watch(entries: list[Entry], controller: Controller | None) -> tuple[dict[str, Any], str]:
    """What the audits of a trace say of the controller: a field, and a line; nothing if none do."""
    from edgetok.control.audits import describe, watch

    audits = _count_audits(entries)
    if controller is None or not audits:
        return {}, ""
    drift = watch(entries, controller.certificate)
    fields = {
        "audits": drift.audits,
        "differ": audits[True],
        "at_most": drift.risk,
        "broken": drift.broken_once,
    }
    return {"drift": fields}, f"\n{describe(drift, audits[True])}"


def _count_audits(entries: list[Entry]) -> Counter[bool]:
    """How many audited answers differ from the full rung's, and how many do not."""
    return Counter(entry.differs for entry in entries if entry.differs is not None)


def _describe(entries: list[Entry], repeated: list[Repeated]) -> dict[str, Any]:
    return {
        "questions": len(entries),
        "same": sum(r.same for r in repeated),
        "unknown": sum(r.open for r in repeated),
        "live_tokens": sum(sum(r.live) for r in repeated) / len(repeated),
        "tokens": sum(sum(r.tried) for r in repeated) / len(repeated),
        "decisions": [{"live": r.live, "tried": r.tried, "unknown": r.open} for r in repeated],
    }


def _show(entries: list[Entry], repeated: list[Repeated]) -> Table:
    shown = table(f"{len(entries)} questions", "rungs tried", ">then", ">now")
    live, now = Counter(r.live for r in repeated), Counter(r.tried for r in repeated)
    for tried in sorted(live | now):
        shown.add_row(" then ".join(map(str, tried)), str(live[tried]), str(now[tried]))
    return shown


def _summarise(repeated: list[Repeated]) -> str:
    same, unknown = sum(r.same for r in repeated), sum(r.open for r in repeated)
    tail = f"; of {unknown} it is not known whether the answer would be taken" if unknown else ""
    return f"{same} of {len(repeated)} decisions are the same{tail}"
