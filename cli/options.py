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


def parse_mib(text: str | None, option: str) -> float | None:
    """Memory as users write it, in MiB; None if there is none.

    Raises:
        UsageError: for anything else.

    >>> parse_mib("1.5GiB", "--max-memory")
    1536.0
    """
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*(mib|gib)?", text.strip().lower())
    if found is None or float(found[1]) == 0:
        raise UsageError(f"{option} {text!r} is no size; write it like 512MiB or 2GiB")
    return float(found[1]) * (1024 if found[2] == "gib" else 1)


def parse_weights(text: str | None, option: str) -> list[float] | None:
    """Numbers as users write them; None if there are none.

    Raises:
        UsageError: for anything else.

    >>> parse_weights("1, 2.5", "--frame-weights")
    [1.0, 2.5]
    """
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(
            f"{option} {text!r} is no list of numbers; write it like 1,2,0.5"
        ) from error


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
