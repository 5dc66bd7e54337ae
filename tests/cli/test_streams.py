"""Standard streams that are closed, full or unread, and names that are no UTF-8, for each verb."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgetok.cli.failures import EXIT_CODES

from .test_contract import VERBS

EDGETOK = [sys.executable, "-m", "edgetok.cli"]
# What a shell does to streams before the command runs.
SHELL = ("<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", ">/dev/full 2>&1", "1</dev/null")
NO_UTF8 = os.fsdecode(b"no\xff")


def shell(
    redirected: str,
    *arguments: object,
    before: str = "true",
    cwd: Path | None = None,
    given: bytes = b"",
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command under bash, whose redirections are those of the user."""
    line = ["bash", "-c", f'{before}; "$@" {redirected}', "bash", *EDGETOK]
    return subprocess.run(
        [*line, *(os.fsencode(str(argument)) for argument in arguments)],
        capture_output=True,
        input=given,
        cwd=cwd,
        env=os.environ | (env or {}),
        check=False,
        timeout=300,
    )


def require_documented(done: subprocess.CompletedProcess[bytes]) -> None:
    told = done.stdout + done.stderr
    assert done.returncode in EXIT_CODES and done.returncode != 1, told
    assert b"Traceback" not in told and b"Exception ignored" not in told and b"bug:" not in told


def call(verb: str, bundle: Path, image: Path, folder: Path) -> tuple[object, ...]:
    """A call of each verb that works, or is refused soon."""
    calls: dict[str, tuple[object, ...]] = {
        "run": (bundle, "--image", image, "--prompt", "x", "--max-new-tokens", "2"),
        "chat": (bundle, image),
        "export": (folder / "none", "-o", folder / "out.bundle"),
        "tune": (folder / "none", "--data", image, "-o", folder / "tuned"),
        "eval": (bundle, "--data", folder / "none"),
        "calibrate": (bundle, "--data", folder / "none"),
        "replay": (folder / "none", bundle),
        "clean": (folder,),
        "bench": (bundle, "--repeats", "1"),
        "methods": (),
        "doctor": (),
    }
    return (verb, *calls.get(verb, (bundle,)))


@pytest.fixture
def image(samples: Path) -> Path:
    return samples.parent / "3.png"


# These load or time graphs, and write what they find as the others do.
LONG = ("bench", "doctor", "verify")
EVERY_VERB = [
    pytest.param(verb, marks=pytest.mark.slow) if verb in LONG else verb for verb in VERBS
]
# Quick: results in words and failures in JSON, or the other way round, by turns.
WRITTEN = [
    (redirected, *((("--json",), ()) if number % 2 else ((), ("--json",))))
    for number, redirected in enumerate(SHELL)
]
ALL_WRITTEN = [
    *WRITTEN,
    *(pytest.param(each, b, a, marks=pytest.mark.slow) for each, a, b in WRITTEN),
]


@pytest.mark.parametrize("redirected", [">/dev/full"])
@pytest.mark.parametrize("verb", EVERY_VERB)
def test_every_verb_ends_with_a_documented_code(
    bundle: Path, image: Path, tmp_path: Path, verb: str, redirected: str
) -> None:
    require_documented(shell(redirected, *call(verb, bundle, image, tmp_path), cwd=tmp_path))


@pytest.mark.parametrize(("redirected", "of_result", "of_failure"), ALL_WRITTEN)
def test_streams_of_results_and_of_failures(
    tmp_path: Path, redirected: str, of_result: tuple[str, ...], of_failure: tuple[str, ...]
) -> None:
    done = shell(redirected, "methods", *of_result)
    require_documented(done)
    lost = "full" in redirected or "1<" in redirected
    assert done.returncode == (6 if lost else 0), done.stderr
    require_documented(shell(redirected, "inspect", tmp_path / "none", *of_failure))


def test_a_full_standard_error_is_no_failure() -> None:
    done = shell("2>/dev/full", "methods", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["ok"]


def test_no_other_file_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    """What libraries print must not land in a file that happens to be opened first."""
    code = (
        "import os; from edgetok.cli.streams import prepare_streams; prepare_streams();"
        "file = open('made', 'wb'); os.write(1, b'printed'); assert file.fileno() > 2"
    )
    line = ["bash", "-c", '"$@" <&- >&- 2>&-', "bash", sys.executable, "-c", code]
    assert subprocess.run(line, cwd=tmp_path, check=False).returncode == 0
    assert (tmp_path / "made").read_bytes() == b""


@pytest.mark.parametrize("redirected", ["<&-", "0>/dev/null"])
def test_what_cannot_be_read_is_5(bundle: Path, image: Path, redirected: str) -> None:
    for arguments in (("run", bundle, "--image", "-", "--prompt", "x"), ("chat", bundle, image)):
        done = shell(redirected, *arguments)
        assert (done.returncode, done.stdout) == (5, b"")
        assert b"standard input " in done.stderr


def test_a_question_that_is_no_utf8_is_5(bundle: Path, image: Path) -> None:
    done = shell("", "chat", bundle, image, "--json", given=b"caf\xe9\n")
    assert done.returncode == 5
    assert "not UTF-8 at byte 3" in json.loads(done.stdout)["error"]["message"]


def test_a_failure_whose_reader_left_is_141(tmp_path: Path) -> None:
    done = shell('| true; exit "${PIPESTATUS[0]}"', "inspect", tmp_path / "none", "--json")
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("verb", ["inspect", "verify", "run", "eval", "export", "clean"])
def test_names_that_are_no_utf8(bundle: Path, image: Path, tmp_path: Path, verb: str) -> None:
    odd = tmp_path / NO_UTF8
    shutil.copytree(bundle, odd)
    arguments = {
        "run": (odd, "--image", image, "--prompt", "x"),
        "eval": (bundle, "--data", odd / NO_UTF8),
        "export": (tmp_path, "-o", odd / NO_UTF8),
        "clean": (odd / NO_UTF8,),
    }.get(verb, (odd,))
    done = shell("", verb, *arguments, "--json")
    require_documented(done)
    fields = json.loads(done.stdout.decode("utf-8"))
    assert fields["ok"] is (verb == "inspect")
    if verb in ("verify", "run"):
        assert done.returncode == 2 and "no\\xff: a name" in fields["error"]["message"]


def test_an_image_whose_name_is_no_utf8(bundle: Path, image: Path, tmp_path: Path) -> None:
    odd = tmp_path / (NO_UTF8 + ".png")
    missing = shell("", "run", bundle, "--image", odd, "--prompt", "x", "--json")
    message = json.loads(missing.stdout.decode("utf-8"))["error"]["message"]
    assert missing.returncode == 5 and "no\\xff.png cannot be read" in message
    shutil.copy(image, odd)
    options = ("--prompt", "x", "--max-new-tokens", "2")
    assert shell("", "run", bundle, "--image", odd, *options).returncode == 0


def test_an_argument_that_is_no_utf8(bundle: Path, image: Path) -> None:
    for arguments in (("run", bundle, "--image", image, "--prompt", NO_UTF8), (NO_UTF8,)):
        done = shell("", *arguments, "--json")
        require_documented(done)
        assert json.loads(done.stdout.decode("utf-8"))["ok"] is False


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_deleted_working_directory(
    bundle: Path, image: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    gone = f"mkdir {tmp_path}/gone; cd {tmp_path}/gone; rmdir {tmp_path}/gone"
    done = shell("", "run", "b", "--image", "n.png", "--prompt", "x", *options, before=gone)
    assert done.returncode == 6
    assert b"the current directory was deleted" in (done.stdout if options else done.stderr)
    asked = ("run", bundle, "--image", image, "--prompt", "x", "--max-new-tokens", "2")
    assert shell("", *asked, *options, before=gone).returncode == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16"])
def test_json_is_utf8_in_every_locale(encoding: str, tmp_path: Path) -> None:
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": encoding}
    done = shell("", "inspect", tmp_path / "né→😀", "--json", env=env)
    assert done.returncode == 3
    json.loads(done.stdout.decode("utf-8"))
