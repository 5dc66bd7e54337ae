"""SIGINT and SIGTERM end a verb cleanly; a second one ends it at once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# A verb that works in a temporary directory until it is told to stop; `slow` takes its time even
# then, as code that is deep inside a library may.
_PROGRAM = """
import sys, tempfile, time
from edgetok.cli.app import app, main

@app.command()
def work(place: str, slow: bool = False, as_json: bool = False) -> None:
    with tempfile.TemporaryDirectory(dir=place):
        try:
            print("ready", file=sys.stderr, flush=True)
            time.sleep(60)
        finally:
            if slow:
                print("cleaning", file=sys.stderr, flush=True)
                time.sleep(60)

main()
"""


class Working:
    """The program above, ready and waiting."""

    def __init__(self, place: Path, *options: str) -> None:
        self.place = place
        command = [sys.executable, "-c", _PROGRAM, "work", str(place), *options]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.wait_for("ready")

    def wait_for(self, word: str) -> None:
        assert self.process.stderr is not None
        assert self.process.stderr.readline().strip() == word

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "place"
    place.mkdir()
    yield place


@pytest.mark.parametrize(
    ("number", "exit_code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_first_signal_cleans_up(
    place: Path, number: signal.Signals, exit_code: int, word: str
) -> None:
    working = Working(place)
    assert list(place.iterdir()), "the work has begun"
    working.process.send_signal(number)
    code, out, err = working.end()
    assert (code, out) == (exit_code, "")
    assert err == f"edgetok: {word}\n"
    assert not list(place.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_is_immediate(place: Path, number: signal.Signals) -> None:
    working = Working(place, "--slow")
    working.process.send_signal(signal.SIGINT)
    working.wait_for("cleaning")
    working.process.send_signal(number)
    code, _, _ = working.end()
    assert code == -number  # a shell shows 130 or 143


def test_json_is_one_object_even_then(place: Path) -> None:
    # `--json` stands for itself: main looks for the word, so that any failure finds it.
    program = _PROGRAM.replace("as_json: bool", "json: bool")
    command = [sys.executable, "-c", program, "work", str(place), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 143
    assert json.loads(out)["error"]["code"] == "terminated"


def test_signals_that_were_ignored_stay_ignored() -> None:
    """As under nohup; the handlers of a host program are its own."""
    program = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
from edgetok.cli.signals import signals_as_exceptions
with signals_as_exceptions():
    print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)
    print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "False", "True"]
