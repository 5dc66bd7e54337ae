"""Fixtures of tests that build graphs."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="session")
def building(load_helper: Any) -> ModuleType:
    """The module that builds some graphs and runs them."""
    helper: ModuleType = load_helper("export/building")
    return helper
