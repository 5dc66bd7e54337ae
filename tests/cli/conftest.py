"""Running the command line, in this process or in one of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgetok.cli.app import execute


@dataclass(frozen=True)
class Done:
    """What a command left: exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on standard output."""
        found: dict[str, Any] = json.loads(self.out)
        return found


Run = Callable[..., Done]


@pytest.fixture
def edgetok(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process; quick."""

    def run(*arguments: object) -> Done:
        code = execute([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture
def edgetok_process(tmp_path: Path) -> Run:
    """Runs a command as a user does; `env` is added to the environment, None removes."""

    def run(*arguments: object, env: dict[str, str | None] | None = None) -> Done:
        changed = {**os.environ, **(env or {})}
        done = subprocess.run(
            [sys.executable, "-m", "edgetok.cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={name: value for name, value in changed.items() if value is not None},
            check=False,
            timeout=300,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run
