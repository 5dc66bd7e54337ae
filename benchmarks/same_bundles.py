"""Whether two checkouts of edgetok export the same bytes: graphs, weights, and what manifests say.

Run in each checkout `python benchmarks/same_bundles.py export FOLDER`, then in either
`python benchmarks/same_bundles.py compare OLD NEW`. Tiny random models go through every kind of
cache, policy, prefill, tower and flavour. Graphs and weights must be the same to the byte; what
manifests and reports say otherwise is printed, field by field.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

import edgetok

TESTS = Path(__file__).resolve().parent.parent / "tests"
SIZES = {"prompt_tokens": 48, "new_tokens": 70, "parity_images": 1}
SAMPLED = {"samples": "samples.jsonl"}
MUSTDROP = {"prefill": "mustdrop", "kv_policy": "mustdrop", "method": "pool"}
# By name: the tiny model, and what is asked of its export.
CONFIGURATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "fp32": ("llava", {"budgets": "4,8,full"}),
    "int8": ("llava", {"weights": "int8", "kv": "int8", **SAMPLED}),
    "int4": ("llava", {"weights": "int4", "kv": "int4", "flavour": "portable", **SAMPLED}),
    "int8-portable": ("llava", {"weights": "int8", "kv": "int8", "flavour": "portable", **SAMPLED}),
    "portable-20": ("llava", {"flavour": "portable-20"}),
    "fp16": ("llava", {"kv": "fp16", "flavour": "portable"}),
    "kivi": ("llava", {"kv": "kivi", "flavour": "portable"}),
    "kivi4": ("llava", {"kv": "kivi4"}),
    "zipcache": ("llava", {"kv": "zipcache", "flavour": "portable"}),
    "think": ("llava", {"kv": "think", "flavour": "portable"}),
    "h2o": ("llava", {"kv_policy": "h2o", "kv_slots": 60, "flavour": "portable"}),
    "snapkv-int8": (
        "llava",
        {"kv_policy": "snapkv", "kv_slots": 60, "kv": "int8", "flavour": "portable", **SAMPLED},
    ),
    "streaming": ("llava", {"kv_policy": "streaming", "kv_slots": 60}),
    "visual": ("llava", {"kv_policy": "visual", "kv_slots": 60}),
    "random": ("llava", {"kv_policy": "random", "kv_slots": 60, "seed": 3}),
    "tidaldecode": ("deep", {"kv_policy": "tidaldecode", "kv_reads": 24, "flavour": "portable"}),
    "tidaldecode-int8": ("deep", {"kv_policy": "tidaldecode", "kv": "int8", **SAMPLED}),
    "fastv": ("deep", {"prefill": "fastv:0.5", "flavour": "portable"}),
    "pyramiddrop": ("deep", {"prefill": "pyramiddrop", "method": "pool"}),
    "mustdrop": ("deep", {**MUSTDROP, "flavour": "portable"}),
    "dyvte-signal": ("deep", {"prefill": "dyvte-signal", "flavour": "portable"}),
    "tome": ("llava", {"method": "tome", "flavour": "portable"}),
    "cdpruner": ("llava", {"method": "cdpruner", "budgets": "6,full"}),
    "lfm2": ("lfm2", {"flavour": "portable"}),
    "phi3-partial": ("phi3-partial", {}),
    "qwen2_vl": ("family/qwen2_vl", {"budgets": "4,full", "size_px": "family"}),
    "qwen3_vl": (
        "family/qwen3_vl",
        {"budgets": "4,full", "size_px": "family", "flavour": "portable"},
    ),
    "gemma3": ("family/gemma3", {"budgets": "4,full"}),
    "paligemma": ("family/paligemma", {"budgets": "4,full"}),
    "llava_next": (
        "family/llava_next 1x2",
        {"budgets": "8,full", "method": "hired", "tiles": (1, 2)},
    ),
    "smolvlm": (
        "family/smolvlm 2x1",
        {"budgets": "6,full", "method": "globalcom2", "tiles": (2, 1)},
    ),
    "vit": ("encoder/vit", {"flavour": "portable"}),
    "clip": ("encoder/clip", {"weights": "int8"}),
}


def load_helper(name: str) -> ModuleType:
    """A module of tests/ by its file."""
    spec = importlib.util.spec_from_file_location(f"same_{Path(name).stem}", TESTS / f"{name}.py")
    assert spec is not None and spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def write_model(path: Path, name: str) -> Path:
    """The tiny model of a configuration, written once."""
    if path.exists():
        return path
    kind, _, row = name.rpartition("/")
    if kind == "family":
        return Path(load_helper("families/tiny_families").write_tiny(path, row))
    if kind == "encoder":
        return Path(load_helper("families/tiny_encoders").write_tiny_encoder(path, row))
    llava = load_helper("tiny_llava")
    if row == "deep":
        return Path(llava.write_tiny_llava(path, shape={"num_hidden_layers": 4}))
    return Path(llava.write_tiny_llava(path, decoder="llama" if row == "llava" else row))


def write_samples(folder: Path) -> None:
    """A few random pictures with a question each."""
    generator = np.random.default_rng(0)
    lines = []
    for number in range(12):
        pixels = generator.integers(0, 255, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "prompt": f"What is {number}?"}))
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")


def export_all(folder: Path, names: list[str]) -> None:
    """Export the configurations of these names, all if there are none."""
    folder.mkdir(parents=True, exist_ok=True)
    write_samples(folder)
    for name in names or CONFIGURATIONS:
        model, options = CONFIGURATIONS[name]
        path = write_model(folder / "models" / model.replace("/", "-").replace(" ", "-"), model)
        asked = SIZES if "/" not in model or model.startswith("family") else {}
        options = {"budgets": "8,full", **asked, **options} if asked else {**options}
        if "size_px" in options:
            row = model.partition("/")[2]
            options["size_px"] = load_helper("families/tiny_families").FAMILIES[row].size_px
        if "samples" in options:
            options["samples"] = folder / options["samples"]
        started = time.monotonic()
        edgetok.export(path, folder / f"{name}.bundle", force=True, **options)
        print(f"{name}: {time.monotonic() - started:.1f} s", flush=True)


def compare_all(old: Path, new: Path) -> int:
    """Print what differs between two folders of bundles; 1 if graphs or weights do."""
    differing = 0
    for bundle in sorted(old.glob("*.bundle")):
        theirs = new / bundle.name
        if not theirs.exists():
            print(f"{bundle.stem}: missing in {new}")
            differing += 1
            continue
        bytes_of = [digest_files(each) for each in (bundle, theirs)]
        unequal = sorted(
            path
            for path in {*bytes_of[0], *bytes_of[1]}
            if len({d.get(path) for d in bytes_of}) > 1
        )
        differing += bool(unequal)
        said = list(find_differences(*(read_manifest(each) for each in (bundle, theirs))))
        state = f"{len(unequal)} files differ: {unequal[:6]}" if unequal else "same bytes"
        print(f"{bundle.stem}: {len(bytes_of[0])} graphs and weights, {state}")
        for line in said:
            print(f"    {line}")
    print(f"{differing} bundles differ in graphs or weights")
    return int(differing > 0)


def digest_files(bundle: Path) -> dict[str, str]:
    """sha256 of graphs and weights by their path in the bundle."""
    found = [*bundle.glob("onnx/**/*.onnx"), *bundle.glob("weights/*")]
    return {
        str(path.relative_to(bundle)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
    }


def read_manifest(bundle: Path) -> Any:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest.pop("files")
    return manifest


def find_differences(old: Any, new: Any, at: str = "$") -> Iterator[str]:
    """Fields that are in one manifest only, or not the same."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            missing = object()
            yield from find_differences(old.get(key, missing), new.get(key, missing), f"{at}.{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, pair in enumerate(zip(old, new, strict=True)):
            yield from find_differences(*pair, f"{at}[{number}]")
    elif type(old) is object or type(new) is object:
        yield f"{at}: only in the {'new' if type(old) is object else 'old'} manifest"
    elif old != new:
        yield f"{at}: {json.dumps(old)[:60]} -> {json.dumps(new)[:60]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    making = verbs.add_parser("export")
    making.add_argument("folder", type=Path)
    making.add_argument("names", nargs="*", choices=[*CONFIGURATIONS, []])
    comparing = verbs.add_parser("compare")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    asked = parser.parse_args()
    if asked.verb == "compare":
        return compare_all(asked.old, asked.new)
    export_all(asked.folder, asked.names)
    return 0


if __name__ == "__main__":
    sys.exit(main())
