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
REAL_SIZES = ROOT / "docs/results/real-sizes.json"
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
    "lfm2_vl": (
        "LFM2-VL",
        "cells of pixel shuffle",
        "`--image-size`, 512x512 if none is given",
    ),
    "fast_vlm": ("FastVLM (needs `edgetok[timm]`)", "cells of the last map", "one part"),
    "perception_lm": ("PerceptionLM (needs `edgetok[timm]`)", "averaged cells", "one part"),
}
HEAD = """# Families

Made by `make docs` from `docs/results/families.json`, which the slow tests of `tests/families`
write. Encoders without a language model are in [encoders.md](encoders.md).

| `model_type` | models | a budget counts | pictures |
|---|---|---|---|
"""
MEASURED = """
One picture per prompt, or several of `llava`, `llava_onevision`, `internvl`, `smolvlm` and
`idefics3` ([frames.md](frames.md)); odd kinds of pictures are in [images.md](images.md).

Decoders: Llama, Mistral, Qwen2, Qwen3, Gemma 1 to 3, SmolLM3, Phi-3 and LFM2 under LLaVA
(`tests/export/stages/test_decoders.py`), with q/k norms, soft caps, sliding windows,
biases, layers without positions, partial rotary embedding and rotary scaling (Llama 3, YaRN,
dynamic, LongRoPE up to the length that its first angles are for), and those of the families above.
`tests/export/stages/test_decoder_parts.py` has each of them at groups of 3 and 7 and heads of 64 to
256 channels. At the full budget, bundles answer as Hugging Face does; smaller ones have no
separators (ends of lines, names of tiles). Methods inside the tower know CLIP and
SigLIP towers of LLaVA alone; `hired` and `globalcom2` are the methods that take tiles.

The short convolutions of LFM2 remember the rows before a row. What takes rows away, or proves
itself row by row (a KV policy, `--prefill`, caches with rings, an int4 cache), is refused for it.
Towers from timm are run whole and tell their features alone: methods that read attention, keys or
a CLS row are refused for FastVLM and PerceptionLM.

## What was measured

Tiny models of each family with random weights: real layer types, small widths, and the shape of
the decoder that is named. Greedy answers of up to 12 tokens to questions about random pictures,
at the full budget in float32, beside `generate`; the largest difference of logits in the golden
case; the largest difference of pixels from the family's own image processor (Pillow's resampling).
Methods are those whose reduced rungs passed the export's gate.

| model | decoder's shape | equal answers | logits | pixels | flavours | methods |
|---|---|---|---|---|---|---|
"""


SIZES = """
## Published sizes

Shapes of published models with random weights (`benchmarks/shapes.py`), exported with int4 weights
and an int8 cache by `benchmarks/real_sizes.py` and answered from on the same two cores. Memory is
what the export could not give back, beside the float16 checkpoint; weights lie in files while it
runs. Every graph passed the gate, on one picture. Answers are noise: nothing is said of accuracy.
Exports shared the machine with other work, so their seconds are too many.

| model | checkpoint, MB | export, s | memory, MB | of the checkpoint | bundle, MB | load, s |
|---|---|---|---|---|---|---|
"""
SPEEDS = """
| model | visual tokens | first token, ms | decode, ms per token |
|---|---|---|---|
"""
BEHIND = """
## Random weights and an int8 cache

With int4 weights and an int8 cache, some of these tiny models miss the gate's cosine of 0.98 to
PyTorch (LLaVA-OneVision at the full budget: 0.966 at decode). It is what rounding rows costs
random weights, and no fault of the graphs: they are as PyTorch is with the same rows rounded
(cosine above 0.99999, `tests/export/caches/test_plain_int8.py`), and PyTorch with rounded rows is
as far from itself. The weights are spread so that answers depend on the picture, which makes
attention sharp; the distance grows with that and with depth. `benchmarks/cache_rounding.py`: the
lowest cosine of 14 logits of tiny LLaVA-OneVision, float32 weights, prompts of 40 random tokens,
PyTorch with an int8 cache beside PyTorch without.

| layers | as spread here | two thirds of it | one third |
|---|---|---|---|
| 1 | 0.9992 | 0.9999 | 1.0000 |
| 2 | 0.9975 | 0.9992 | 1.0000 |
| 4 | 0.9867 | 0.9952 | 0.9995 |
| 8 | 0.9640 | 0.9953 | 0.9997 |

The gate holds an int8 cache against PyTorch without rounding, so for real models that cosine says
what the cache costs.
"""


def render(results: dict[str, Any], sizes: list[dict[str, Any]]) -> str:
    """The page."""
    rows = [f"| `{name}` | {' | '.join(facts)} |" for name, facts in FAMILIES.items()]
    measured = [_row(found) for _, found in sorted(results.items())]
    tables = {HEAD: rows, MEASURED: measured, SIZES: map(_size, sizes), SPEEDS: _speeds(sizes)}
    return "".join(head + "\n".join(lines) + "\n" for head, lines in tables.items()) + BEHIND


def _size(row: dict[str, Any]) -> str:
    needed = [row[name] for name in ("checkpoint, MB", "export, s", "peak memory, MB")]
    after = [row["bundle, MB"], row["load, s"]]
    shown = [*(f"{v:.0f}" for v in needed), f"{row['of the checkpoint']:.2f}"]
    return f"| {row['model']} | {' | '.join([*shown, *(f'{v:.0f}' for v in after)])} |"


def _speeds(sizes: list[dict[str, Any]]) -> list[str]:
    return [
        f"| {row['model']} | {tokens} | {rung['ttft_ms']:.0f} | {rung['decode_ms']:.0f} |"
        for row in sizes
        for tokens, rung in row["rungs"].items()
    ]


def _row(found: dict[str, Any]) -> str:
    equal = f"{found['prompts']} of {found['prompts']}"
    methods = ", ".join(f"`{method}`" for method in found["methods"])
    flavours = ", ".join(found["flavours"])
    return (
        f"| {found['model']} | {found['shape']} | {equal} | {found['logits']:.1e} "
        f"| {found['pixels']:.0e} | {flavours} | {methods} |"
    )


if __name__ == "__main__":
    found, sizes = (json.loads(path.read_text()) for path in (RESULTS, REAL_SIZES))
    PAGE.write_text(render(found, sizes["rows"]), encoding="utf-8")
