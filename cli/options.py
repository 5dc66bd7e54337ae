"""Arguments and options that several verbs share, so that they read the same everywhere."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from edgetok.errors import UsageError
from edgetok.options import flag_of, shown_of

DEVICE = "cpu, cuda, ort-tensorrt or ort-rtx (ONNX Runtime); tensorrt or rtx."
THREADS = "Threads per operator; one per physical core by default."
SEED = "Makes what is drawn repeatable."

BundleDir = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="Directory that `edgetok export` made.")
]
ModelDir = Annotated[
    Path, typer.Argument(metavar="MODEL", help="Hugging Face model directory (safetensors).")
]
Data = Annotated[
    Path, typer.Option(help="JSONL file; each line has image, prompt, answer, maybe kind.")
]
Json = Annotated[
    bool, typer.Option("--json", help="Print exactly one JSON object on standard output.")
]
Budgets = Annotated[
    str | None,
    typer.Option(help="Rungs to use, such as 64,128,full; all of the bundle if left out."),
]
Device = Annotated[str, typer.Option(help=DEVICE)]
Threads = Annotated[int | None, typer.Option(help=THREADS)]
Seed = Annotated[int, typer.Option(help=SEED)]


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


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command with one option per field in the place of its parameter that is a dataclass.

    The parameter is keyword-only for typer, and the command gets the dataclass, filled.

    Raises:
        UsageError: when the command is called, from the dataclass.
    """
    parameters = inspect.signature(command, eval_str=True).parameters
    place = next(name for name, p in parameters.items() if is_dataclass(p.annotation))
    kind = parameters[place].annotation
    options = {found.name: found for found in fields(kind)}

    @functools.wraps(command)
    def filled(**given: Any) -> None:
        asked = {name: _read(given.pop(name), found) for name, found in options.items()}
        command(**{place: kind(**asked)}, **given)

    listed: list[inspect.Parameter] = []
    for name, parameter in parameters.items():
        listed += _declare(kind) if name == place else [parameter]
    named = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in listed]
    filled.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
    return filled


def _declare(kind: type) -> Iterator[inspect.Parameter]:
    """What typer is to read for each field."""
    hints = get_type_hints(kind)
    for found in fields(kind):
        shown, flag = shown_of(found), flag_of(found)
        limits: dict[str, Any] = {"min": shown.least, "max": shown.most}
        declared = typer.Option(flag, help=shown.help, **limits | {**shown.typer})
        yield inspect.Parameter(
            found.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=found.default,
            annotation=Annotated[shown.shell or hints[found.name], declared],
        )


def _read(value: Any, found: Field[Any]) -> Any:
    read = shown_of(found).read
    return value if read is None else read(value, flag_of(found))
