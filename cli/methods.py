"""`edgetok methods`: the compressors that can be frozen."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from edgetok.cli.options import Json
from edgetok.cli.output import emit, table


def methods_command(
    form: Annotated[
        Literal["table", "markdown"],
        typer.Option("--format", help="`markdown` has what each method reads and costs, too."),
    ] = "table",
    as_json: Json = False,
) -> None:
    """List the compressors that `export --method` takes, with what each one needs."""
    from edgetok.methods import METHODS, TOWER_METHODS
    from edgetok.methods.table import describe_methods

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
    text = describe_methods(known) if form == "markdown" else shown
    emit({"methods": rows}, as_json, text)
