"""Installed distributions, as Python's own `importlib.metadata` finds them."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest

from edgetok.installed import requirements_of, version_of


def test_versions_and_requirements_are_those_that_python_finds() -> None:
    names = {each.name for each in importlib.metadata.distributions()}
    assert {"edgetok", "numpy", "typing_extensions"} <= names
    for name in names:
        assert version_of(name) == importlib.metadata.version(name), name
        assert requirements_of(name) == (importlib.metadata.requires(name) or []), name


def test_what_is_not_installed_has_no_version() -> None:
    assert version_of("no-such-distribution") is None
    assert requirements_of("no-such-distribution") == []


def test_names_are_compared_as_packages_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PEP 503; of two folders of a name, the first on the path is what Python imports."""
    for place, version in (("a", "2.0+cpu"), ("b", "1.0")):
        folder = tmp_path / place / f"Some_Thing.x-{version}.dist-info"
        folder.mkdir(parents=True)
        lines = (
            f"Name: Some_Thing.x\nVersion: {version}\nRequires-Dist: numpy>=2\n\nRequires-Dist: x"
        )
        (folder / "METADATA").write_text(lines)
    found = [str(tmp_path / place) for place in ("none", "a", "b")]
    monkeypatch.setattr(sys, "path", found)
    assert version_of("some-thing-x") == importlib.metadata.version("some-thing-x") == "2.0+cpu"
    assert requirements_of("some_thing.X") == ["numpy>=2"]
