"""What scripts may rely on: exit codes, one JSON object, and which stream holds what."""

from __future__ import annotations

import errno
import tomllib
from pathlib import Path

import pytest

from edgetok.cli.app import build_command
from edgetok.cli.failures import EXIT_CODES, EXTRA_OF_MODULE, explain
from edgetok.cli.signals import Terminated
from edgetok.errors import (
    BundleError,
    EdgetokError,
    IncompatibleError,
    InputError,
    ResourceError,
    UsageError,
    VerificationError,
)

from .conftest import Run

ROOT = Path(__file__).parents[2]
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


def test_all_verbs_are_there() -> None:
    assert tuple(build_command().list_commands(None)) == VERBS


def test_alone_it_shows_help_with_a_first_example(edgetok: Run) -> None:
    done = edgetok()
    assert (done.code, done.err) == (0, "")
    assert "edgetok export llava-dir -o out.bundle" in done.out


@pytest.mark.parametrize("arguments", [(), ("--help",), *((verb, "-h") for verb in VERBS)])
def test_help_documents_exit_codes(edgetok: Run, arguments: tuple[str, ...]) -> None:
    done = edgetok(*arguments)
    assert (done.code, done.err) == (0, "")
    words = " ".join(done.out.split())
    assert all(f"{code} {what}" in words for code, what in EXIT_CODES.items())


def test_version_is_one_line(edgetok: Run) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert edgetok("--version").out == f"edgetok {project['version']}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("freeze",), "No such command 'freeze'"),
        (("run", "some.bundle"), "give either --image"),
        (("run", "b", "--image", "i", "--frames", "f", "--prompt", "p"), "give either --image"),
        (("export", "model"), "Missing option '--output'"),
        (("export", "model", "-o", "out", "--weights", "int3"), "'int3'"),
        (("export", "model", "-o", "out", "--kv", "int8"), "add --samples"),
        (("run", "b", "--image", "i", "--prompt", "p", "--seed", "one"), "--seed"),
        (
            ("run", "b", "--image", "i", "--prompt", "p", "--budget", "64", "--signal", "elbow"),
            "exclude each other",
        ),
        (
            ("run", "b", "--image", "i", "--prompt", "p", "--budget", "9", "--max-ttft-ms", "1"),
            "exclude each other",
        ),
        (
            ("run", "b", "--image", "i", "--prompt", "p", "--max-memory-mib", "0", "--budget", "9"),
            "exclude each other",
        ),
        (("verify", "b", "--expect-digest", "sha256:12"), "64 hexadecimal digits"),
        (("clean", "no-such-directory"), "is no directory"),
        (("build", "b", "--target", "rtx:sm50"), "names sm50"),
        (("build", "b", "--target", "rtx", "--max-build-memory", "much"), "write it like 4GiB"),
        (("eval", "b", "--data", "samples.jsonl", "--plot", "plot.bmp"), "plot.bmp"),
    ],
)
def test_usage_errors_are_2_and_on_standard_error(
    edgetok: Run, arguments: tuple[str, ...], words: str
) -> None:
    done = edgetok(*arguments)
    assert (done.code, done.out) == (2, "")
    assert words in done.err


def test_usage_errors_in_json_are_one_object(edgetok: Run) -> None:
    done = edgetok("export", "some.model", "--json")
    assert (done.code, done.err) == (2, "")
    assert done.json == {
        "ok": False,
        "error": {"code": "usage", "message": "Missing option '--output' / '-o'."},
    }


def test_stream_and_json_exclude_each_other(edgetok: Run) -> None:
    done = edgetok("run", "b", "--image", "i", "--prompt", "p", "--stream", "--json")
    assert (done.code, done.json["error"]["code"]) == (2, "usage")


@pytest.mark.parametrize("verb", ["inspect", "verify", "bench"])
def test_missing_bundle_is_3(edgetok: Run, tmp_path: Path, verb: str) -> None:
    done = edgetok(verb, tmp_path / "none.bundle", "--json")
    assert done.code == 3
    assert done.json["error"]["code"] == "bundle"
    assert "no such directory" in done.json["error"]["message"]


def test_directory_without_manifest_is_3(edgetok: Run, tmp_path: Path) -> None:
    done = edgetok("inspect", tmp_path)
    assert (done.code, done.out) == (3, "")
    assert "incomplete" in done.err


def test_samples_that_are_none_are_5(edgetok: Run, tmp_path: Path) -> None:
    data = tmp_path / "samples.jsonl"
    data.write_text('{"image": 7}\n', encoding="utf-8")
    done = edgetok("eval", tmp_path, "--data", data)
    assert done.code == 5
    assert f"{data}:1" in done.err


@pytest.mark.parametrize(
    "kind",
    [BundleError, IncompatibleError, InputError, ResourceError, UsageError, VerificationError],
)
def test_every_error_has_its_own_documented_code(kind: type[EdgetokError]) -> None:
    failure = explain(kind("what went wrong"))
    assert (failure.exit_code, failure.code) == (kind.exit_code, kind.code)
    assert failure.message == "what went wrong"
    assert failure.exit_code in EXIT_CODES


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 6),
        (OSError(errno.EFBIG, "File too large"), 6),
        (PermissionError(errno.EACCES, "Permission denied", "out"), 6),
        (MemoryError(), 6),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 4),
        (ModuleNotFoundError("No module named 'x'", name="x"), 1),
        (OSError(errno.EISDIR, "Is a directory"), 1),
        (KeyError("key"), 1),
        (KeyboardInterrupt(), 130),
        (Terminated(), 143),
    ],
)
def test_foreign_errors_are_mapped(error: BaseException, exit_code: int) -> None:
    assert explain(error).exit_code == exit_code


@pytest.mark.parametrize(("module", "extra"), EXTRA_OF_MODULE.items())
def test_missing_modules_name_an_extra_that_holds_them(module: str, extra: str) -> None:
    failure = explain(ModuleNotFoundError(name=f"{module}.part"))
    assert f'pip install "edgetok[{extra}]"' in failure.message
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    held = " ".join(project["optional-dependencies"][extra])
    assert module.replace("_", "-") in held


def test_methods_lists_each_with_its_paper(edgetok: Run) -> None:
    done = edgetok("methods", "--json")
    assert (done.code, done.err) == (0, "")
    names = [method["name"] for method in done.json["methods"]]
    assert {"fastervlm", "visionzip", "random", "pool"} <= set(names)
    late = [method["name"] for method in done.json["prefill"]]
    assert {"fastv", "pyramiddrop", "random"} <= set(late)
    policies = [policy["name"] for policy in done.json["kv_policies"]]
    assert {"streaming", "h2o", "random"} <= set(policies)
    pages = edgetok("methods", "--format", "markdown").out.strip().split("\n\n")
    listed = [[line.split("`")[1] for line in page.splitlines()[2:]] for page in pages]
    assert listed == [names, late, policies]
    shown = edgetok("methods").out
    assert all(f"\n{name} " in shown for name in policies)
    assert all(f"\n{name} " in shown for name in names)
    assert all(f"\n{name}:" in shown for name in late)


def test_clean_removes_what_dead_exports_left_and_nothing_else(
    edgetok: Run, tmp_path: Path
) -> None:
    dead = tmp_path / "out.bundle.tmp-999999999-0123abcd"
    other = tmp_path / "photos"
    for directory in (dead, other):
        directory.mkdir()
        (directory / "file").write_text("x", encoding="utf-8")
    done = edgetok("clean", tmp_path, "--json")
    assert (done.code, done.json["removed"]) == (0, [str(dead)])
    assert not dead.exists()
    assert (other / "file").exists()


def test_clean_forgets_measurements_on_request(
    edgetok: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGETOK_CACHE_DIR", str(tmp_path / "cache"))
    kept = tmp_path / "cache" / "bench" / "table.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("{}", encoding="utf-8")
    edgetok("clean", tmp_path)
    assert kept.exists()
    assert edgetok("clean", tmp_path, "--tables").code == 0
    assert not kept.exists()
