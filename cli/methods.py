"""`edgetok methods`: the compressors that can be frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgetok.cli.options import Json
from edgetok.cli.output import emit, table

if TYPE_CHECKING:
    from edgetok.prefill import PrefillMethod


def methods_command(
    form: Annotated[
        Literal["table", "markdown"],
        typer.Option("--format", help="`markdown` has what each method reads and costs, too."),
    ] = "table",
    as_json: Json = False,
) -> None:
    """List what `export --method` and `export --prefill` take, with what each one needs."""
    from edgetok.methods import METHODS, TOWER_METHODS
    from edgetok.methods.table import describe_methods
    from edgetok.prefill import PREFILL_METHODS
    from edgetok.prefill.table import describe_prefill

    known = [*METHODS.values(), *TOWER_METHODS.values()]

    rows = [
        {
            "name": method.name,
            "paper": method.paper,
            "where": method.where,
            "verdict": method.verdict,
            "needs": list(method.needs),
            "cost_flops": method.cost,
            "summary": method.summary,
        }
        for method in known
    ]
    shown = table("", "method", "paper", "where", "frozen form", "what it does")
    for method in known:
        shown.add_row(method.name, method.paper, method.where, method.verdict, method.summary)
    at_prefill = list(PREFILL_METHODS.values())
    late = table("At prefill, for --prefill", "method", "paper", "frozen form", "what it does")
    for other in at_prefill:
        name = f"{other.name}:{other.ratio:.2g}"
        late.add_row(name, other.paper, other.verdict, other.summary)
    fields = {"methods": rows, "prefill": [_prefill_row(method) for method in at_prefill]}
    if form == "markdown":
        emit(fields, as_json, describe_methods(known), "", describe_prefill(at_prefill))
    else:
        emit(fields, as_json, shown, "", late)


def _prefill_row(method: PrefillMethod) -> dict[str, object]:
    return {
        "name": method.name,
        "paper": method.paper,
        "verdict": method.verdict,
        "reads": list(method.reads),
        "positions": method.positions,
        "ratio": method.ratio,
        "ratio_is": method.ratio_is,
        "summary": method.summary,
    }
