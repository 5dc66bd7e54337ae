"""What an int8 cache costs a model of random weights is its rounding, not its graphs."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from edgetok.calibration.kv_scales import measure_kv_scales
from edgetok.export.caches.plain.scheme import PlainCache
from edgetok.export.reference.cache import CacheReference
from edgetok.export.reference.rows import Rounding
from edgetok.families import open_model
from edgetok.families.parts import Parts
from edgetok.kv import keep_all
from edgetok.ladder import build_ladder

IDS = (5, 9, 20, 77, 130, 8)


def answer(parts: Parts, prompts: list[Tensor], rounding: Rounding | None) -> Tensor:
    """Logits [prompts * (1 + steps), W] of PyTorch with rows rounded one by one, or not."""
    cache = CacheReference(parts.text, keep_all(80, len(parts.text.layers)))
    cache.rounding = rounding
    found = []
    for prompt in prompts:
        found += [cache.begin(prompt, range(0)), *(cache.step(token) for token in IDS)]
    return torch.stack(found)


def worst_cosine(got: Tensor, want: Tensor) -> float:
    return float(torch.cosine_similarity(got.double(), want.double()).min())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava_onevision", "smolvlm"])
@torch.no_grad()
def test_graphs_are_what_rounding_makes_of_pytorch(
    building: ModuleType, load_helper: object, tmp_path: Path, name: str
) -> None:
    tiny: ModuleType = load_helper("families/tiny_families")  # type: ignore[operator]
    parts = open_model(tiny.write_tiny(tmp_path / "model", name))
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(0, 290, (1, 40), generator=generator) for _ in range(10)]
    prompts = [parts.text.embed(row) for row in ids]
    scales = measure_kv_scales(parts.text, prompts[:8], 8)
    ladder = build_ladder((4,), 40, 30)
    cache = PlainCache("int8", ladder.largest.cache_slots, scales)
    builder = building.make_builder(parts, ladder, cache)
    runner, found = building.open_graphs(builder, tmp_path, "prefill", "decode"), []
    for prompt in prompts[8:]:
        found += [runner.begin(4, prompt[0].numpy()), *(runner.step(token) for token in IDS)]
    got = torch.stack([torch.from_numpy(row).flatten() for row in found])
    exact = answer(parts, prompts[8:], None)
    rounded = answer(parts, prompts[8:], Rounding(scales, 8))
    assert worst_cosine(got, rounded) > 0.99999
    assert worst_cosine(got, exact) == pytest.approx(worst_cosine(rounded, exact), abs=1e-4)
