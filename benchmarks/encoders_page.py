"""Write docs/encoders.md from what the slow tests of tests/families/test_encoders.py measured.

EDGETOK_ENCODERS=docs/results/encoders.json pytest -m slow tests/families/test_encoders.py
python benchmarks/encoders_page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgetok.families.encoders import REFUSED

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs/results/encoders.json"
PAGE = ROOT / "docs/encoders.md"

# By `model_type`: what checkpoints of it are called, and what a bundle of them does.
FAMILIES = {
    "vit": ("ViT", "classify, or embed"),
    "deit": ("DeiT, distilled or not", "classify, or embed"),
    "dinov2": ("DINOv2", "classify, or embed"),
    "dinov2_with_registers": ("DINOv2 with registers", "classify, or embed"),
    "dinov3_vit": ("DINOv3 ViT", "embed; the full budget only"),
    "clip": ("CLIP", "compare with texts, or classify"),
    "clip_vision_model": ("CLIP's vision tower", "embed"),
    "siglip": ("SigLIP, SigLIP 2 of a fixed resolution", "compare with texts, or classify"),
    "siglip_vision_model": ("SigLIP's vision tower", "embed"),
    "dpt": ("DPT on its own ViT or DINOv2", "depth"),
    "eomt": ("EoMT", "segment"),
}
HEAD = """# Encoders

Made by `make docs` from `docs/results/encoders.json`, which the slow tests of
`tests/families/test_encoders.py` write.

`edgetok export` also takes vision transformers without a language model, with the same flags as
far as they mean something: `--method`, `--budgets`, `--weights`, `--flavour`, `--samples`. A budget
counts the patches that leave the tower; each rung is one graph over the same weights.

```sh
edgetok export vit-dir -o vit.bundle --method tome --budgets 64,128,full --weights int8
edgetok run vit.bundle --image cat.png                        # five classes with probabilities
edgetok run clip.bundle --image cat.png --text "a cat" --text "a dog"
edgetok run dino.bundle --image cat.png --output cat.npy      # an embedding
edgetok run dpt.bundle --image room.png --output depth.png    # 16 bits, as large as the picture
```

```python
encoder = edgetok.load_encoder("clip.bundle")
encoder.compare("cat.png", ["a photo of a cat", "a photo of a dog"])  # zero-shot classes
encoder.encode("cat.png", budget=64).output  # the embedding
```

| `model_type` | models | a bundle can |
|---|---|---|
"""
RULES = """
Methods are those inside the tower: {methods}. Behind the tower nothing is left to save, so that
the others are refused.

- A classifier or embedding on a CLS row reads that row, whatever else is left.
- Means over patches count a row as often as the patches that it stands for, as ToMe has it;
  SigLIP's pooling attention does where the method's attention does.
- Depth and segmentation want a row per patch. Only `expedit` gives rows back: behind each block
  that the head reads, from the clusters nearest to each patch when they were made. Its budgets are
  grids of the picture's proportions.
- EoMT's queries join in front of its last blocks; `expedit` acts before them, at a quarter of the
  blocks that are left, and masks are made of the rows given back. Its scores of classes are those
  of Hugging Face's semantic post-processing before it resizes. Pictures are stretched to the
  model's square, where Hugging Face cuts or pads them.
- DPT's pictures are stretched to one size in whole patches, where some checkpoints keep
  proportions.
- DINOv3 turns rows by their place in the picture, which a merged row does not have. Its own image
  processor needs torchvision, and resizes before it rounds; the bundle's rounds first.
- `--weights int4` rounds all matrices of the tower to 4 bits, `int8` to 8; what that costs is in
  the export's report, as `cosine` of the whole model.

Not supported, and refused in a sentence:

"""
MEASURED = """
## What was measured

Tiny models with random weights: real layer types, small widths. The largest difference of the
output at the full budget from Hugging Face's own forward pass on three random pictures, in both
flavours, in float32. Every method named passed the export's gate at a reduced rung, against
PyTorch with the same plan. Values depend on the machine in their last digits.

| model | shape | task | output off by | methods |
|---|---|---|---|---|
"""


def render(results: dict[str, Any]) -> str:
    """The page."""
    from edgetok.methods import TOWER_METHODS

    rows = [f"| `{name}` | {' | '.join(facts)} |" for name, facts in FAMILIES.items()]
    refused = [f"- `{name}`: {why}." for name, why in sorted(REFUSED.items())]
    rules = RULES.format(methods=", ".join(f"`{name}`" for name in TOWER_METHODS))
    measured = [_row(name, found) for name, found in sorted(results.items())]
    page = HEAD + "\n".join(rows) + "\n" + rules + "\n".join(refused) + "\n"
    return page + MEASURED + "\n".join(measured) + "\n"


def _row(name: str, found: dict[str, Any]) -> str:
    methods = ", ".join(f"`{method}`" for method in found["methods"]) or "none"
    shape = found["shape"] or "4 heads of 16"
    return f"| {name} | {shape} | {found['task']} | {found['output']:.0e} | {methods} |"


if __name__ == "__main__":
    PAGE.write_text(render(json.loads(RESULTS.read_text())), encoding="utf-8")
