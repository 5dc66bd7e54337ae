"""`edgetok chat`: several questions about one image, line by line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from edgetok import limits
from edgetok.cli.options import BundleDir, Json, with_options
from edgetok.cli.output import echo, emit_json, say, working
from edgetok.cli.run_options import ChatOptions
from edgetok.cli.streams import is_terminal, read_input
from edgetok.errors import InputError

if TYPE_CHECKING:
    from edgetok.runtimes.answers.answer import Answer
    from edgetok.runtimes.answers.conversation import Conversation
    from edgetok.runtimes.answers.request import TurnOptions


@with_options
def chat_command(
    bundle: BundleDir,
    image: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE...", help="JPEG, PNG or WebP; all pictures of the prompt."),
    ],
    asked: ChatOptions,
    as_json: Json = False,
) -> None:
    """Talk about an image: each line of standard input is a question, answered in turn.

    Answers know what was said before. The end of the input (Ctrl-D) ends the conversation. At a
    terminal a question that is rejected is explained and another one may follow; elsewhere it ends
    the conversation with its exit code.

    Example: printf 'What does it say?\\nWhich colour is it?\\n' | edgetok chat out.bundle sign.png
    """
    talk = _begin(bundle, image, asked, as_json)
    turns = []
    at_terminal = is_terminal()
    for line in _read_lines(at_terminal):
        try:
            question = _decode(line)
            if not question:
                continue
            answer = _answer(talk, question, asked.generation, as_json)
            turns.append({"question": question, **msgspec.to_builtins(answer)})
        except InputError as error:
            if not at_terminal:
                raise
            say(f"edgetok: {error}")
    if as_json:
        emit_json({"turns": turns, "tokens_left": talk.tokens_left})


def _begin(bundle: Path, image: list[Path], asked: ChatOptions, as_json: bool) -> Conversation:
    """Open the bundle and read the image, so that their errors come before the first question."""
    with working(as_json) as progress:
        from edgetok.runtimes.load import load

        progress("loading", 0.0)
        budgets = None if asked.budget is None else (asked.budget,)
        model = load(bundle, device=asked.device, budgets=budgets, threads=asked.threads)
        progress("looking", 0.5)
        encoded = model.encode(image, budget=asked.budget)
        return model.converse(encoded, system=asked.system, budget=asked.budget)


def _answer(talk: Conversation, question: str, options: TurnOptions, as_json: bool) -> Answer:
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
