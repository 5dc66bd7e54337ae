"""Arguments and options that several verbs share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BundleDir = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="Directory that `edgetok export` made.")
]
Json = Annotated[
    bool, typer.Option("--json", help="Print exactly one JSON object on standard output.")
]
Budgets = Annotated[
    str | None,
    typer.Option(help="Rungs to use, such as 64,128,full; all of the bundle if left out."),
]
Device = Annotated[str, typer.Option(help="Where to run: cpu or cuda.")]
Threads = Annotated[
    int | None, typer.Option(help="Threads per operator; one per physical core by default.")
]
Seed = Annotated[int, typer.Option(help="Makes what is drawn repeatable.")]
