"""Write docs/families.md from what the slow tests of tests/families measured.

EDGETOK_RESULTS=docs/results/families.json pytest -m slow tests/families
python benchmarks/families_page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs/results/families.json"
PAGE = ROOT / "docs/families.md"

# By `model_type`: what checkpoints of it are called, and the unit of its budgets.
FAMILIES = {
    "llava": ("LLaVA-1.5 and all of its layout", "patches", "one part"),
    "llava_next": ("LLaVA-NeXT", "patches", "`--tiles`, 2 x 2 if none are given"),
    "llava_onevision": ("LLaVA-OneVision", "patches", "one part, or `--tiles`"),
    "internvl": ("InternVL 2.5 and 3 (Hugging Face format)", "2 x 2 cells", "one part"),
    "smolvlm": ("SmolVLM, SmolVLM2", "cells of pixel shuffle", "one part, or `--tiles`"),
    "idefics3": ("Idefics3", "cells of pixel shuffle", "one part, or `--tiles`"),
    "gemma3": ("Gemma 3", "averaged cells", "one part"),
    "paligemma": ("PaliGemma 1 and 2", "patches", "one part"),
    "qwen2_vl": ("Qwen2-VL", "2 x 2 groups", "`--image-size`, 448x448 if none is given"),
    "qwen2_5_vl": ("Qwen2.5-VL", "2 x 2 groups", "`--image-size`, 448x448 if none is given"),
    "qwen3_vl": ("Qwen3-VL", "2 x 2 groups", "`--image-size`, 448x448 if none is given"),
}
HEAD = """# Families

Made by `make docs` from `docs/results/families.json`, which the slow tests of `tests/families`
write.

| `model_type` | models | a budget counts | pictures |
|---|---|---|---|
"""
MEASURED = """
One picture per prompt, or several of `llava`, `llava_onevision`, `internvl`, `smolvlm` and
`idefics3` ([frames.md](frames.md)); odd kinds of pictures are in [images.md](images.md). Decoders:
Llama, Mistral, Qwen2, Qwen3, Gemma 1 to 3, SmolLM3 and Phi-3 under LLaVA
(`tests/export/test_decoders.py`), and those of the families above. At the full budget, bundles
answer as Hugging Face does; smaller ones have no separators (ends of lines, names of tiles).
Methods inside the tower know CLIP and SigLIP towers of LLaVA alone; `hired` and `globalcom2` are
the methods that take tiles.

## What was measured

Tiny models of each family with random weights: real layer types, small widths, and the shape of
the decoder that is named. Greedy answers of up to 12 tokens to questions about random pictures,
at the full budget in float32, beside `generate`; the largest difference of logits in the golden
case; the largest difference of pixels from the family's own image processor (Pillow's resampling).
Methods are those whose reduced rungs passed the export's gate.

| model | decoder's shape | equal answers | logits | pixels | flavours | methods |
|---|---|---|---|---|---|---|
"""


def render(results: dict[str, Any]) -> str:
    """The page."""
    rows = [f"| `{name}` | {' | '.join(facts)} |" for name, facts in FAMILIES.items()]
    measured = [_row(name, found) for name, found in sorted(results.items())]
    return HEAD + "\n".join(rows) + "\n" + MEASURED + "\n".join(measured) + "\n"


def _row(name: str, found: dict[str, Any]) -> str:
    equal = f"{found['prompts']} of {found['prompts']}"
    methods = ", ".join(f"`{method}`" for method in found["methods"])
    flavours = ", ".join(found["flavours"])
    return (
        f"| {name} | {found['shape']} | {equal} | {found['logits']:.1e} | {found['pixels']:.0e} "
        f"| {flavours} | {methods} |"
    )


if __name__ == "__main__":
    PAGE.write_text(render(json.loads(RESULTS.read_text())), encoding="utf-8")
