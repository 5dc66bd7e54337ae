"""Values of the command line: read at once where they are plain, else as typer reads them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer

from edgetok.cli.plain_values import read_plain_values

PLAIN = ["--count", "3", "--share", "-0.5", "--kind", "b", "--file", "no-such", "--text", "x y"]


def build(got: list[dict[str, Any]], *, quick: bool) -> typer.Typer:
    app = typer.Typer()

    @app.command()
    def verb(
        place: Path,
        count: Annotated[int | None, typer.Option(min=1, max=9)] = None,
        share: float = 1.0,
        kind: Literal["a", "b"] = "a",
        file: Annotated[list[Path] | None, typer.Option()] = None,
        there: Annotated[Path | None, typer.Option(exists=True)] = None,
        text: str = "t",
        flag: Annotated[bool, typer.Option("--flag")] = False,
    ) -> None:
        got.append(dict(locals()))

    command = typer.main.get_command(app)
    if quick:
        read_plain_values(command)
    return command  # type: ignore[return-value]


def run(arguments: list[str], *, quick: bool) -> tuple[int, str, list[dict[str, Any]]]:
    got: list[dict[str, Any]] = []
    command: Any = build(got, quick=quick)
    try:
        return command.main(args=arguments, standalone_mode=False) or 0, "", got
    except Exception as error:
        return 2, f"{type(error).__name__}: {error}", got


@pytest.mark.parametrize(
    "arguments",
    [
        [".", *PLAIN],
        ["nowhere"],
        [".", "--file", "a", "--file", "b", "--flag"],
        [".", "--share", "1e-3"],
        [".", "--share", ".5"],
        [".", "--share", "nan"],
        [".", "--count", " 7 "],
        [".", "--count", "1_000"],
        [".", "--count", "0"],
        [".", "--count", "10"],
        [".", "--count", "three"],
        [".", "--count", "2.5"],
        [".", "--share", "much"],
        [".", "--kind", "B"],
        [".", "--kind", ""],
        [".", "--there", "no-such"],
        [".", "--there", "."],
        [".", "--file", ""],
        [],
    ],
)
def test_values_and_refusals_are_those_of_typer(arguments: list[str]) -> None:
    code, message, got = run(arguments, quick=True)
    as_typer = run(arguments, quick=False)
    assert (code, message) == as_typer[:2]
    assert repr(got) == repr(as_typer[2]), "nan equals nothing"
    for ours, theirs in zip(got, as_typer[2], strict=True):
        assert {n: type(v) for n, v in ours.items()} == {n: type(v) for n, v in theirs.items()}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_path_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.touch(mode=0o000)
    assert run([str(locked)], quick=True) == run([str(locked)], quick=False)


@pytest.mark.parametrize(
    ("arguments", "loaded"),
    [(["run", ".", "--image", "x.png", "--prompt", "x", "--budget", "4"], False),
     (["run", ".", "--image", "x.png", "--prompt", "x", "--budget", "four"], True)],
)  # fmt: skip
def test_plain_values_need_no_pydantic(arguments: list[str], loaded: bool) -> None:
    code = (
        "import sys; from edgetok.cli.app import execute; execute(sys.argv[1:])\n"
        "print('pydantic' in sys.modules)"
    )
    ran = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(ran, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(loaded)
