"""Fixtures around the tiny bundle."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

_TINY = Path(__file__).parents[1] / "bundle" / "tiny.py"


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The module tests/bundle/tiny.py; a fixture, since test folders are no packages."""
    spec = importlib.util.spec_from_file_location("tiny_bundle", _TINY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bundle_dir(tiny: ModuleType, tmp_path: Path) -> Path:
    """A good bundle that a test may damage."""
    tiny.write(tmp_path / "tiny.bundle")
    return tmp_path / "tiny.bundle"
