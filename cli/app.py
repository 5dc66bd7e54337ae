"""`edgetok`: the verbs put together, and the one place that turns errors into exit codes."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer

from edgetok.cli.failures import EXIT_CODES, Failure, explain
from edgetok.cli.output import emit_json, say
from edgetok.cli.plain_values import read_plain_values
from edgetok.cli.signals import Terminated, signals_as_exceptions
from edgetok.cli.streams import flush_output, prepare_streams
from edgetok.cli.versions import NEEDED, checked
from edgetok.errors import ResourceError

_FIRST_EXAMPLE = """\
Freezes a vision-language model into a ladder of static graphs, one rung per visual-token budget.

Start with:

[bold]edgetok export[/] llava-dir -o out.bundle --budgets 64,128,full

[bold]edgetok run[/] out.bundle --image sign.png --prompt "What does it say?"
"""
VERBS = (
    "export",
    "build",
    "run",
    "chat",
    "inspect",
    "verify",
    "bench",
    "eval",
    "calibrate",
    "tune",
    "replay",
    "methods",
    "doctor",
    "clean",
)
_INTERRUPTED = 130
_PIPE_CLOSED = 141  # as a shell shows SIGPIPE
_EPILOG = "Exit codes: " + " · ".join(f"{code} {what}" for code, what in EXIT_CODES.items())

app = typer.Typer(
    name="edgetok",
    help=_FIRST_EXAMPLE,
    epilog=_EPILOG,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_show_locals=False,  # locals hold prompts
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from edgetok import __version__

        typer.echo(f"edgetok {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log what is done to standard error.")
    ] = False,
) -> None:
    level = logging.INFO if verbose else logging.ERROR
    logging.basicConfig(stream=sys.stderr, level=level, format="%(name)s: %(message)s")
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def build_command(names: Sequence[str] = VERBS) -> Any:
    """The command with these verbs; what others import is not loaded."""
    group = typer.main.get_command(app)
    for name in names:
        verb = _load_verb(name)
        read_plain_values(verb)
        group.add_command(verb, name)  # type: ignore[attr-defined]
    read_plain_values(group)
    return group


def _load_verb(name: str) -> Any:
    function = getattr(import_module(f"edgetok.cli.{name}"), f"{name}_command")
    apart = typer.Typer(rich_markup_mode="rich")
    apart.callback()(start)  # or its one command would stand for itself
    apart.command(name, epilog=_EPILOG)(checked(function, NEEDED.get(name, ())))
    return typer.main.get_command(apart).commands[name]  # type: ignore[attr-defined]


def _find_verbs(arguments: Sequence[str]) -> Sequence[str]:
    """The verb that is asked for; all where help or an error is to list them."""
    first = next((word for word in arguments if not word.startswith("-")), "")
    return (first,) if first in VERBS else VERBS


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The console script: run a verb and exit with the code that says how it went."""
    prepare_streams()
    sys.exit(execute(sys.argv[1:] if arguments is None else arguments))


def execute(arguments: Sequence[str]) -> int:
    """Run a verb and return its exit code; every failure is reported here and nowhere else."""
    _accept_any_text()
    code = _deliver(lambda: _run(arguments), arguments)
    # What could not be written above is tried again here, and dropped then.
    return _deliver(flush_output, arguments) or code


def _deliver(write: Callable[[], int | None], arguments: Sequence[str]) -> int:
    """The exit code of `write`, or that of a standard output that does not take a result."""
    try:
        return write() or 0
    except BrokenPipeError:
        return _PIPE_CLOSED
    except OSError as error:
        say(f"edgetok: standard output cannot be written: {os.strerror(error.errno or 0).lower()}")
        return ResourceError.exit_code


def _run(arguments: Sequence[str]) -> int:
    # From 1.29 on ONNX Runtime reports models and machines to its maker unless told not to
    # before it is imported. Who wants that sets the variable to 0.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    # PyTorch's threads would wait for each other busily: an export took twice to four times the
    # processor time, and longer by the clock too where another program wanted the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with signals_as_exceptions():
            command = build_command(_find_verbs(arguments))
            code = command.main(args=list(arguments), prog_name="edgetok", standalone_mode=False)
        if code == _INTERRUPTED:  # typer has swallowed the exception
            return _report(KeyboardInterrupt(), arguments)
        return code if isinstance(code, int) else 0
    except SystemExit:  # typer and rich leave so when the reader of a pipe has left
        return _PIPE_CLOSED
    except (Exception, KeyboardInterrupt, Terminated) as error:
        return _report(error, arguments)


def _report(error: BaseException, arguments: Sequence[str]) -> int:
    failure = explain(error)
    if os.environ.get("EDGETOK_DEBUG") == "1":
        say("".join(traceback.format_exception(error)))  # never with locals
    if "--json" in arguments:
        emit_json({"error": {"code": failure.code, "message": failure.message}}, ok=False)
    else:
        say(_format(failure))
    return failure.exit_code


def _format(failure: Failure) -> str:
    lines = [f"edgetok: {failure.message}"]
    if failure.usage:
        lines = [failure.usage, *lines]
    return "\n".join(lines)


def _accept_any_text() -> None:
    """A terminal that lacks a character shows an escape instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="backslashreplace")
