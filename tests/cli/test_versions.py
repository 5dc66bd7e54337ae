"""Versions against bounds, and errors that come of a package that does not fit."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from edgetok.cli import versions
from edgetok.cli.failures import explain
from edgetok.cli.versions import TRIED, blame_package, list_bounds, misfit
from edgetok.installed import version_of

from .conftest import Run

ROOT = Path(__file__).parents[2]


def test_bounds_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    listed = " ".join([*project["dependencies"], *extras["cpu"], *extras["export"]])
    bounds = list_bounds()
    for package in ("transformers", "torch", "numpy", "tokenizers", *TRIED):
        assert f"{package}>={bounds[package]}" in listed


def test_what_was_tried_is_what_is_locked() -> None:
    locked = dict(
        re.findall(r"^([^=\s]+)==(\S+)", (ROOT / "constraints/3.11.txt").read_text(), re.M)
    )
    assert {package: locked[package] for package in TRIED} == TRIED


@pytest.mark.parametrize(
    ("version", "newer", "says"),
    [
        ("4.57.6", False, "transformers 4.57.6 is older than 5"),
        ("5.24.0", True, None),
        ("5.24", True, None),
        ("5.21.0", True, None),
        ("5.20.2", False, "transformers 5.20.2 is older than 5.21, the oldest that works"),
        ("5.25.0.dev0", False, None),
        ("5.25.0.dev0", True, "transformers 5.25.0.dev0 is newer than 5.24.0"),
        ("6.0.0", True, '<=5.24.0"'),
    ],
)
def test_a_misfit_names_both_versions(
    monkeypatch: pytest.MonkeyPatch, version: str, newer: bool, says: str | None
) -> None:
    monkeypatch.setattr(versions, "version_of", lambda _: version)
    found = misfit("transformers", newer=newer)
    assert found is None if says is None else found is not None and says in found


def test_an_error_inside_a_newer_package_is_4_and_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = ImportError("cannot import name 'Cache'", name="transformers.cache_utils")
    assert explain(moved).exit_code == 1, "the version fits: a bug of ours"
    real = version_of
    newer = {"transformers": "5.99.0"}
    monkeypatch.setattr(versions, "version_of", lambda name: newer.get(name) or real(name))
    failure = explain(moved)
    assert (failure.exit_code, failure.code) == (4, "incompatible")
    assert "transformers 5.99.0 is newer than 5.24.0" in failure.message
    assert not re.search(r"\x1b|\[/?[a-z]+\]", failure.message)
    assert blame_package(KeyError("x")) is None
    assert blame_package(TypeError("ours")) is None


@pytest.mark.parametrize(
    ("package", "old", "verbs"),
    [
        ("transformers", "5.16.1", ("export", "tune")),
        ("torch", "2.9.1+cpu", ("export",)),
        ("onnx", "1.20.0", ("export", "run", "verify")),
        ("onnxruntime", "1.24.2", ("export", "run", "chat", "eval", "bench", "calibrate", "build")),
    ],
)
def test_verbs_refuse_what_is_too_old_before_they_begin(
    monkeypatch: pytest.MonkeyPatch,
    edgetok: Run,
    tmp_path: Path,
    package: str,
    old: str,
    verbs: tuple[str, ...],
) -> None:
    """Package, its version and the one that works; other verbs do not ask."""
    real = version_of
    monkeypatch.setattr(versions, "version_of", lambda name: old if name == package else real(name))
    least = list_bounds()[package]
    calls: dict[str, tuple[object, ...]] = {
        "export": (tmp_path, "-o", tmp_path / "x.bundle"),
        "tune": (tmp_path, "--data", tmp_path, "-o", tmp_path / "x"),
        "run": (tmp_path, "--image", "x.png", "--prompt", "x"),
        "chat": (tmp_path, "x.png"),
        "eval": (tmp_path, "--data", tmp_path),
        "calibrate": (tmp_path, "--data", tmp_path),
    }
    for verb in verbs:
        failure = edgetok(verb, *calls.get(verb, (tmp_path,)), "--json")
        assert failure.code == 4, verb
        message = failure.json["error"]["message"]
        assert message.startswith(f"{package} {old} is older than {least}"), message
        assert f'pip install "{package}>={least}"' in message
    assert edgetok("methods").code == 0
