"""What this machine can do at best, and what the stages of a model ask of it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from peers.contestants import HERE
from peers.making import OUT, run_measured


def measure_bounds(threads: int) -> dict[str, Any]:
    """What `bounds.c` prints: gigabytes and billions of operations in a second.

    Raises:
        CannotMake: if there is no compiler `cc`.
    """
    program = OUT / "bounds"
    OUT.mkdir(parents=True, exist_ok=True)
    flags = ["-O3", "-march=native", "-ffp-contract=fast", "-pthread"]
    run_measured(["cc", *flags, HERE / "bounds.c", "-o", program], OUT / "bounds.log")
    done = subprocess.run([program, str(threads)], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def count_operations(checkpoint: Path, rows: int) -> dict[str, dict[str, float]]:
    """Billions of multiplications and additions of the tower, and of a prompt of so many rows.

    `products` have weights and can be of 8 bits, `attention` has none.
    """
    config = json.loads((checkpoint / "config.json").read_text())
    config["side_px"] = json.loads((checkpoint / "question.json").read_text())["side_px"]
    tower = _qwen_tower if config["model_type"] == "qwen2_vl" else _clip_tower
    return {"tower": tower(config), "prefill": _decoder(config["text_config"], rows)}


def _decoder(text: dict[str, Any], rows: int) -> dict[str, float]:
    """All rows through all layers, one of them through the head; a row sees those before it."""
    width, layers = text["hidden_size"], text["num_hidden_layers"]
    kept = text["num_key_value_heads"] * width // text["num_attention_heads"]
    layer = 2 * width * (width + kept) + 3 * width * text["intermediate_size"]
    products = 2 * rows * layers * layer + 2 * width * text["vocab_size"]
    return {"products": products / 1e9, "attention": 2 * layers * rows**2 * width / 1e9}


def _clip_tower(config: dict[str, Any]) -> dict[str, float]:
    """The blocks up to the one whose output is taken, and the projector."""
    vision, out = config["vision_config"], config["text_config"]["hidden_size"]
    width, patch = vision["hidden_size"], vision["patch_size"]
    patches = (vision["image_size"] // patch) ** 2
    blocks = vision["num_hidden_layers"] + 1 + config["vision_feature_layer"]
    block = 4 * width**2 + 2 * width * vision["intermediate_size"]
    ends = patches * (3 * patch**2 * width + width * out + out**2)
    attention = 4 * blocks * (patches + 1) ** 2 * width
    return {
        "products": 2 * ((patches + 1) * blocks * block + ends) / 1e9,
        "attention": attention / 1e9,
    }


def _qwen_tower(config: dict[str, Any]) -> dict[str, float]:
    """Blocks over all patches, and the merger over groups of 2 x 2."""
    vision = config["vision_config"]
    width, blocks, patch = vision["embed_dim"], vision["depth"], vision["patch_size"]
    patches = (config["side_px"] // patch) ** 2
    block = (4 + 2 * vision["mlp_ratio"]) * width**2
    merged = 4 * width
    ends = patches * 6 * patch**2 * width + patches // 4 * merged * (merged + vision["hidden_size"])
    attention = 4 * blocks * patches**2 * width
    return {"products": 2 * (patches * blocks * block + ends) / 1e9, "attention": attention / 1e9}
