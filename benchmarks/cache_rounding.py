"""What rounding the rows of a cache to int8 costs models of random weights, by depth and spread.

python benchmarks/cache_rounding.py

Prints the table of docs/families.md: PyTorch whose cache rows are rounded one by one, beside
PyTorch whose rows are not. No graph takes part.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import common
import torch
from torch import Tensor

from edgetok.calibration.kv_scales import measure_kv_scales
from edgetok.export.reference.cache import CacheReference
from edgetok.export.reference.rows import Rounding
from edgetok.families import open_model
from edgetok.families.parts import TextParts
from edgetok.kv import keep_all

NAME = "llava_onevision"
LAYERS, SPREADS = (
    (1, 2, 4, 8),
    {"as spread here": 1.0, "two thirds of it": 2 / 3, "one third": 1 / 3},
)
PROMPTS, ROWS, MEASURED = 10, 40, 8  # the scales are measured on all prompts but the last two
IDS = (5, 9, 20, 77, 130, 8)  # what is decoded behind each prompt


def open_text(families: Any, layers: int, spread: float) -> TextParts:
    """The decoder of a tiny model with so many layers, its matrices scaled."""
    plain = families._text
    families._text = lambda *given, **more: plain(*given, **{"num_hidden_layers": layers} | more)
    try:
        with tempfile.TemporaryDirectory() as folder:
            text = open_model(families.write_tiny(Path(folder) / "model", NAME)).text
            for name, weight in text.model.named_parameters():
                if weight.ndim > 1 and "embed" not in name:
                    weight.data = weight * spread
            return text
    finally:
        families._text = plain


def answer(text: TextParts, prompts: list[Tensor], rounding: Rounding | None) -> Tensor:
    cache = CacheReference(text, keep_all(ROWS + len(IDS) + 1, len(text.layers)))
    cache.rounding = rounding
    found = []
    for prompt in prompts:
        found += [cache.begin(prompt, range(0)), *(cache.step(token) for token in IDS)]
    return torch.stack(found).double()


@torch.no_grad()
def main() -> None:
    families = common.load_module("tests/families/tiny_families.py")
    print(f"| layers | {' | '.join(SPREADS)} |\n|{'---|' * (len(SPREADS) + 1)}")
    for layers in LAYERS:
        found = []
        for spread in SPREADS.values():
            text = open_text(families, layers, spread)
            generator = torch.Generator().manual_seed(0)
            ids = [torch.randint(0, 290, (1, ROWS), generator=generator) for _ in range(PROMPTS)]
            prompts = [text.embed(row) for row in ids]
            scales = measure_kv_scales(text, prompts[:MEASURED], 8)
            exact = answer(text, prompts[MEASURED:], None)
            rounded = answer(text, prompts[MEASURED:], Rounding(scales, 8))
            found.append(float(torch.cosine_similarity(rounded, exact).min()))
        print(f"| {layers} | {' | '.join(f'{value:.4f}' for value in found)} |")


if __name__ == "__main__":
    main()
