"""Arguments and options that several verbs share, so that they read the same everywhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from edgetok.errors import UsageError

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
Tiles = Annotated[
    str | None,
    typer.Option(
        metavar="ROWSxCOLUMNS",
        help="Cut pictures into so many tiles behind a thumbnail, for families that do so.",
    ),
]
ImageSize = Annotated[
    str | None,
    typer.Option(
        metavar="HEIGHTxWIDTH",
        help="Pixels that pictures are stretched to, for families that take any size.",
    ),
]
Device = Annotated[
    str, typer.Option(help="cpu, cuda, ort-tensorrt or ort-rtx (ONNX Runtime); tensorrt or rtx.")
]
Threads = Annotated[
    int | None, typer.Option(help="Threads per operator; one per physical core by default.")
]
Seed = Annotated[int, typer.Option(help="Makes what is drawn repeatable.")]


def parse_pair(text: str | None, option: str) -> tuple[int, int] | None:
    """Two whole numbers as users write them; None if there are none.

    Raises:
        UsageError: for anything else.

    >>> parse_pair("2x3", "--tiles")
    (2, 3)
    """
    if text is None:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text.strip().lower())
    if found is None:
        raise UsageError(f"{option} {text!r} is no pair of numbers; write it like 2x3")
    return int(found[1]), int(found[2])
