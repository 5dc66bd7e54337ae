"""Fixtures around the tiny vision-language model."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgetok.bundle.reader import Bundle
from edgetok.runtimes.answers.model import Model
from edgetok.runtimes.load import load
from edgetok.runtimes.runtime.runtime import BundleRuntime

_TINY = Path(__file__).with_name("tiny_vlm.py")


@pytest.fixture(scope="session")
def tiny_vlm() -> ModuleType:
    """The module tiny_vlm.py."""
    spec = importlib.util.spec_from_file_location("tiny_vlm", _TINY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_vlm"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def bundle_dir(tiny_vlm: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good bundle; read only."""
    path: Path = tiny_vlm.write(tmp_path_factory.mktemp("bundles") / "tiny.bundle")
    return path


@pytest.fixture(scope="session")
def opened(bundle_dir: Path) -> Bundle:
    return Bundle.open(bundle_dir)


@pytest.fixture(scope="session")
def model(opened: Bundle) -> Model:
    """A loaded model that all tests share: it keeps no state between answers."""
    return load(opened, threads=1)


@pytest.fixture(scope="session")
def runtime(model: Model) -> BundleRuntime:
    assert isinstance(model.runtime, BundleRuntime)
    return model.runtime


@pytest.fixture
def photo() -> np.ndarray:
    """uint8 [10, 12, 3]."""
    return np.random.default_rng(5).integers(0, 256, (10, 12, 3), np.uint8)
