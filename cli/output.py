"""Results go to standard output, everything else to standard error."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

import msgspec
import typer

if TYPE_CHECKING:  # rich takes a tenth of the time in which `edgetok run` answers
    from rich.console import Console, RenderableType
    from rich.table import Table

Report = Callable[[str, float], None]  # what is being done, and the share that is done, 0..1

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and newline
_LONE = re.compile("[\ud800-\udfff]")  # half of a pair: Python's way to hold a byte of a name
_PIPE_COLUMNS = 160  # a pipe has no width; tables must not be cut at 80


def console(*, error: bool = False) -> Console:
    """A console for results, or for what accompanies them; NO_COLOR is honoured by rich."""
    from rich.console import Console

    stream = sys.stderr if error else sys.stdout
    width = None if stream.isatty() else _PIPE_COLUMNS
    # Names in a bundle are a stranger's: they are text, never markup.
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def emit_json(fields: dict[str, Any], *, ok: bool = True) -> None:
    """The one object of `--json`; NaN and infinity become null."""
    plain = msgspec.to_builtins({"ok": ok, **fields}, enc_hook=str)
    typer.echo(msgspec.json.encode(_spell_all(plain)))  # UTF-8, whatever the terminal's encoding


def _spell_all(value: Any) -> Any:
    """A value of JSON with `spell` of every text in it."""
    match value:
        case str():
            return spell(value)
        case dict():
            return {_spell_all(key): _spell_all(each) for key, each in value.items()}
        case list() | tuple():
            return [_spell_all(each) for each in value]
    return value


def spell(text: str) -> str:
    """Text that is valid Unicode: names of files may hold bytes that are no UTF-8.

    >>> spell("no\udcff.png")
    'no\\xff.png'
    """
    return _LONE.sub(_spell_lone, text)


def _spell_lone(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def emit(fields: dict[str, Any], as_json: bool, *shown: RenderableType) -> None:
    """A verb's result: one JSON object, or what people read."""
    if as_json:
        emit_json(fields)
        return
    for each in shown:
        if isinstance(each, str):
            echo(each)
        else:
            console().print(each)


def echo(text: str, *, end: str = "\n") -> None:
    """Text of a result as it is, except that it cannot command a terminal."""
    typer.echo((disarm(text) if sys.stdout.isatty() else spell(text)) + end, nl=False)


def say(text: str) -> None:
    """A remark beside the result, on standard error."""
    typer.echo(disarm(text), err=True)


def disarm(text: str) -> str:
    """Show control characters instead of sending them: an image may make a model say them.

    >>> disarm("red\\x1b[2J\\n")
    'red\\\\x1b[2J\\n'
    """
    shown = _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)
    return spell(shown)


def table(title: str, *columns: str) -> Table:
    """A plain table; a column whose name starts with > holds figures and leans right."""
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=None, pad_edge=False)
    made.title_style = made.header_style = "bold"  # no colour
    for column in columns:
        figures = column[:1] == ">"
        made.add_column(column.removeprefix(">"), justify="right" if figures else "left")
    return made


@contextmanager
def working(as_json: bool) -> Iterator[Report]:
    """A progress bar on a terminal; standard output is kept for the result.

    Libraries that print while they work are sent to standard error.
    """
    with redirect_stdout(sys.stderr):
        if as_json or not sys.stderr.isatty():
            yield _stay_silent
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console(error=True), transient=True) as bar:
            task = bar.add_task("", total=1.0)
            yield lambda doing, share: bar.update(task, description=doing, completed=share)


def _stay_silent(doing: str, share: float) -> None:
    return None
