"""Fixtures around the tiny bundle."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

_HELPERS = Path(__file__).parents[1] / "bundle"


def _load(name: str) -> ModuleType:
    """A helper of tests/bundle; by its path, since test folders are no packages."""
    spec = importlib.util.spec_from_file_location(f"{name}_helper", _HELPERS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The module tests/bundle/tiny.py."""
    return _load("tiny")


@pytest.fixture(scope="session")
def schemes() -> ModuleType:
    """The module tests/bundle/schemes.py."""
    return _load("schemes")


@pytest.fixture
def bundle_dir(tiny: ModuleType, tmp_path: Path) -> Path:
    """A good bundle that a test may damage."""
    tiny.write(tmp_path / "tiny.bundle")
    return tmp_path / "tiny.bundle"
