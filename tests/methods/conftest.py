"""Features to try methods on: random ones, and those that expose ties and empty norms."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from edgetok import names
from edgetok.tokens import Features

WIDTH, KEY_WIDTH = 24, 16
PROMPT_ROWS, QUESTION = 9, slice(3, 7)

Case = Callable[[dict[str, Tensor]], None]


SCORES = (
    names.CLS_ATTENTION,
    names.RECEIVED_ATTENTION,
    names.LATE_CLS_ATTENTION,
    names.OBJECT_ATTENTION,
    names.GLOBAL_ATTENTION,
    names.NEXT_CLS_ATTENTION,
    names.NEXT_WIDE_ATTENTION,
    names.EARLY_CLS_ATTENTION,
    names.NEXT_CLS_LOGITS,
    names.FLOW_SCORE,
)
VISION = "vision"  # the tower's rows, where the features are the projector's
ROWS = (names.FEATURES, names.KEYS, names.NEXT_KEYS, VISION)


def tie_scores(parts: dict[str, Tensor]) -> None:
    for name in SCORES:
        parts[name] = (parts[name] * 4).floor() / 4


def duplicate_rows(parts: dict[str, Tensor]) -> None:
    """Four different patches, repeated."""
    for name in (*ROWS, *SCORES):
        parts[name] = parts[name][torch.arange(parts[name].shape[0]) % 4]


def make_constant(parts: dict[str, Tensor]) -> None:
    for name, part in parts.items():
        parts[name] = torch.full_like(part, 0.3)


def make_zero(parts: dict[str, Tensor]) -> None:
    for name, part in parts.items():
        parts[name] = torch.zeros_like(part)


def zero_some_rows(parts: dict[str, Tensor]) -> None:
    for name in ROWS:
        parts[name][::3] = 0


def add_outlier(parts: dict[str, Tensor]) -> None:
    for name in (*ROWS, *SCORES):
        parts[name][parts[name].shape[0] // 2] *= 1e4


def leave(parts: dict[str, Tensor]) -> None:
    """Random features as they are."""


CASES: dict[str, Case] = {
    "random": leave,
    "ties": tie_scores,
    "duplicates": duplicate_rows,
    "constant": make_constant,
    "zeros": make_zero,
    "zero rows": zero_some_rows,
    "outlier": add_outlier,
}


def build_features(
    case: str,
    grid: tuple[int, int],
    needs: tuple[str, ...] | None = None,
    width: int = WIDTH,
) -> Features:
    """Features [N, width] of a case with the probes of `needs`, or all."""
    n = grid[0] * grid[1]
    generator = torch.Generator().manual_seed(n)
    parts = {
        names.FEATURES: torch.randn(n, width, generator=generator),
        names.CLS_ATTENTION: torch.rand(n, generator=generator),
        names.KEYS: torch.randn(n, KEY_WIDTH, generator=generator),
        names.CLS_FEATURE: torch.randn(1, width, generator=generator),
        names.NEXT_KEYS: torch.randn(n, width, generator=generator),
        names.TEXT_EMBEDS: torch.randn(PROMPT_ROWS, width, generator=generator),
        VISION: torch.randn(n, width, generator=generator),
    }
    for name in SCORES[1:]:
        parts[name] = torch.rand(n, generator=generator)
    CASES[case](parts)
    parts[names.TEXT_MASK] = torch.zeros(PROMPT_ROWS)
    parts[names.TEXT_MASK][QUESTION] = 1.0
    x, vision = parts.pop(names.FEATURES), parts.pop(VISION)
    probes = {k: v for k, v in parts.items() if needs is None or k in needs}
    return Features(x, grid, probes, vision)


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def references() -> dict[str, Callable[..., Any]]:
    """Every method in plain Python, by its name."""
    modules = [load_sibling(name) for name in ("loops", "merging_loops", "text_loops")]
    loops = {name: loop for module in modules for name, loop in module.REFERENCES.items()}
    return loops | {"asked": sys.modules["text_loops"].asked}


def load_sibling(name: str) -> ModuleType:
    """Import a module of this folder: with importlib mode, tests are no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # merging_loops imports loops
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def features_of() -> Callable[..., Features]:
    return build_features


@pytest.fixture
def cases() -> tuple[str, ...]:
    return tuple(CASES)


@pytest.fixture(scope="session")
def tower_loops() -> ModuleType:
    """The steps of methods inside the tower in plain Python."""
    return load_sibling("tower_loops")
