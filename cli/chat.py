"""`edgetok chat`: several questions about one image, line by line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from edgetok import limits
from edgetok.cli.options import BundleDir, Device, Json, Seed, Threads
from edgetok.cli.output import echo, emit_json, say, working
from edgetok.cli.streams import is_terminal, read_input
from edgetok.errors import InputError

if TYPE_CHECKING:
    from edgetok.runtimes.answers.answer import Answer
    from edgetok.runtimes.answers.conversation import Conversation

_SAMPLING = "Sampling"


def chat_command(
    bundle: BundleDir,
    image: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE...", help="JPEG, PNG or WebP; all pictures of the prompt."),
    ],
    system: Annotated[
        str | None, typer.Option(help="A system message, where the chat template takes one.")
    ] = None,
    budget: Annotated[
        int | None, typer.Option(help="This many visual tokens; the largest rung if left out.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="End each answer after this many tokens.")
    ] = None,
    temperature: Annotated[
        float, typer.Option(help="0 takes the likeliest.", rich_help_panel=_SAMPLING)
    ] = 0.0,
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Draw among the likeliest that hold this; the model's own.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Talk about an image: each line of standard input is a question, answered in turn.

    Answers know what was said before. The end of the input (Ctrl-D) ends the conversation. At a
    terminal a question that is rejected is explained and another one may follow; elsewhere it ends
    the conversation with its exit code.

    Example: printf 'What does it say?\\nWhich colour is it?\\n' | edgetok chat out.bundle sign.png
    """
    talk = _begin(bundle, image, system, budget, device, threads, as_json)
    options = {"temperature": temperature, "top_p": top_p, "seed": seed}
    turns = []
    at_terminal = is_terminal()
    for line in _read_lines(at_terminal):
        try:
            question = _decode(line)
            if not question:
                continue
            answer = _answer(talk, question, options | {"max_new_tokens": max_new_tokens}, as_json)
            turns.append({"question": question, **msgspec.to_builtins(answer)})
        except InputError as error:
            if not at_terminal:
                raise
            say(f"edgetok: {error}")
    if as_json:
        emit_json({"turns": turns, "tokens_left": talk.tokens_left})


def _begin(
    bundle: Path,
    image: list[Path],
    system: str | None,
    budget: int | None,
    device: str,
    threads: int | None,
    as_json: bool,
) -> Conversation:
    """Open the bundle and read the image, so that their errors come before the first question."""
    with working(as_json) as progress:
        from edgetok.runtimes.load import load

        progress("loading", 0.0)
        budgets = None if budget is None else (budget,)
        model = load(bundle, device=device, budgets=budgets, threads=threads)
        progress("looking", 0.5)
        encoded = model.encode(image, budget=budget)
        return model.converse(encoded, system=system, budget=budget)


def _answer(talk: Conversation, question: str, options: dict[str, Any], as_json: bool) -> Answer:
    """The answer, shown while it is generated."""
    with talk.stream(question, **options) as stream:
        for piece in stream:
            if not as_json:
                echo(piece, end="")
    if not as_json:
        echo("")
    return stream.answer


def _read_lines(at_terminal: bool) -> Iterator[bytes]:
    """Lines of standard input up to its end; a line that is too long comes cut, in pieces."""
    while True:
        if at_terminal:
            typer.echo("> ", nl=False, err=True)
        line = read_input(limits.PROMPT_BYTES + 2, line=True)
        if not line:
            if at_terminal:
                typer.echo("", err=True)  # the shell's prompt gets a line of its own
            return
        yield line


def _decode(line: bytes) -> str:
    if len(line) > limits.PROMPT_BYTES + 1:
        raise InputError(f"a question has more than {limits.PROMPT_BYTES} bytes; shorten it")
    try:
        return line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise InputError(
            f"a question is not UTF-8 at byte {error.start} of its line; set the terminal or the "
            "program in front of the pipe to UTF-8"
        ) from error
