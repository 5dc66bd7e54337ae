"""Whole towers in float64: the traced blocks and the driver against a tower in plain NumPy."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgetok.export.stages import tower_reducing as reducing
from edgetok.families import open_model
from edgetok.families.parts import VisionParts
from edgetok.methods import TOWER_METHODS

FOLDER = Path(__file__).parents[2] / "methods"


@pytest.fixture(scope="module")
def vision(tiny_llava: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> VisionParts:
    """A CLIP tower of 36 patches, nine blocks up to the feature layer."""
    path = tmp_path_factory.mktemp("model")
    tiny_llava.write_tiny_llava(path, side_px=48, vision_layers=10)
    return open_model(path).vision


@pytest.fixture(scope="module")
def walk() -> Any:
    loops, walker = (load(name) for name in ("tower_loops", "tower_walk"))
    return lambda *args: walker.walk(*args, loops)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_of_export", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"{name}_of_export"] = module
    spec.loader.exec_module(module)
    return module


def plain_attention(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, bias: Tensor | None
) -> Tensor:
    """What the flavours spell as one operator."""
    scores = query @ key.transpose(1, 2) * scaling
    maps = torch.softmax(scores if bias is None else scores + bias, -1)
    return (maps @ value).transpose(0, 1).flatten(1)


@pytest.fixture
def in_float64(vision: VisionParts, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Nothing is rounded to float32 on the way: masks of the core become float64 as well."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    torch.set_default_dtype(torch.float64)
    vision.model.double()
    yield
    vision.model.float()
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("name", TOWER_METHODS)
def test_every_block_is_that_of_the_plain_tower(name: str, vision: VisionParts, walk: Any) -> None:
    inside = TOWER_METHODS[name].inside
    assert inside is not None
    encoder = reducing.encoder_of(vision)
    possible = inside.budgets(encoder)[:-1]
    generator = torch.Generator().manual_seed(7)
    for budget in {possible[len(possible) // 4], possible[len(possible) * 3 // 4]}:
        tower = reducing.ReducingTower(vision, inside, budget, plain_attention)
        pixels = torch.randn(1, 3, *vision.image_px, generator=generator)
        with torch.no_grad():
            rows, kept, sizes = tower(pixels)
        steps = inside.steps(encoder, budget)
        want, centres, counts = walk(vision, pixels[0].numpy(), name, steps, inside)
        assert rows.dtype == torch.float64
        assert kept.tolist() == centres
        np.testing.assert_allclose(sizes, counts, rtol=1e-6)
        np.testing.assert_allclose(rows, want, rtol=0, atol=1e-5 * np.abs(want).max())
