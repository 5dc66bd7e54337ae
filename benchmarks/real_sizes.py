"""Export and run models of published sizes, with random weights: memory, bytes, speed.

    python benchmarks/real_sizes.py smolvlm-256m llava-onevision-0.5b qwen2-vl-2b \
        --json docs/results/real-sizes.json

Prediction: weights stay in files, so an export needs the interpreter's 0.5 GB, a few copies of the
largest matrix and what ONNX Runtime packs for decode (the quantized decoder); under 1.6 times the
float16 checkpoint once that is larger than 2 GB. Decode reads every weight once per token: bytes
of the decoder's graph over the bandwidth of memory.

An export that is there is not made again: `out/benchmarks/shapes/NAME-WEIGHTS.json` tells what it
needed. Each step is a process of its own. Memory is what a process cannot give back (`RssAnon`);
maps of files come on top while there is room. Answers are noise, so nothing is said of accuracy.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
from PIL import Image
from shapes import SHAPES, write_shape

import edgetok
from edgetok.export.pipeline import export_model
from edgetok.runtimes.bench import PeakMemory, measure

OUT = common.OUT / "shapes"
SAMPLES = 6
CASES = {"int4": "int8", "fp32": "fp32"}


def read_anonymous_bytes() -> int:
    """Resident memory of this process that no file backs."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+)", status)[1]) << 10  # type: ignore[index]


def draw_samples() -> Path:
    """Smooth noise and one question: what KV scales are measured on."""
    folder, lines = OUT / "samples", []
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for number in range(SAMPLES):
        noise = generator.integers(0, 256, (8 + number, 9, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((640, 480)).save(folder / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "prompt": "What is in the picture?"}))
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "samples.jsonl"


def export(name: str, weights: str, kv: str) -> dict[str, Any]:
    """Export in this process; what it needed."""
    model, out = OUT / name, OUT / f"{name}-{weights}.bundle"
    told = out.with_suffix(".json")
    if out.exists() and told.exists():
        found: dict[str, Any] = json.loads(told.read_text())
        return found
    options = SHAPES[name].options | {"weights": weights, "kv": kv, "parity_images": 1}
    samples = None if kv == "fp32" else draw_samples()
    with PeakMemory(read_anonymous_bytes) as memory:
        report = export_model(model, out, samples=samples, force=True, **options)
    checkpoint = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    needed = {
        "checkpoint, MB": checkpoint / 1e6,
        "export, s": report.seconds,
        "peak memory, MB": memory.peak_bytes / 1e6,
        "of the checkpoint": memory.peak_bytes / checkpoint,
        "bundle, MB": report.bytes / 1e6,
    }
    told.write_text(json.dumps(needed))
    return needed


def run(name: str, weights: str, kv: str) -> dict[str, Any]:
    """Load and answer in this process, rung by rung."""
    del kv
    before = time.perf_counter()
    model = edgetok.load(OUT / f"{name}-{weights}.bundle")
    load_s = time.perf_counter() - before
    picture = OUT / "samples/0.png"
    rows = measure(model, repeats=3, image=picture, prompt="What is in it?", max_new_tokens=16)
    return {
        "load, s": load_s,
        "memory of answers, MB": max(row.memory_mib for row in rows) * (1 << 20) / 1e6,
        "rungs": {
            row.budget: {"ttft_ms": row.ttft_ms_p50, "decode_ms": row.decode_ms_p50} for row in rows
        },
    }


STEPS = {"export": export, "run": run}


def in_process(step: str, name: str, weights: str) -> dict[str, Any]:
    """A step in a process of its own."""
    command = [sys.executable, __file__, name, "--step", step, "--weights", weights]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", choices=list(SHAPES))
    parser.add_argument("--weights", choices=list(CASES), default="int4")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--step", choices=list(STEPS))
    options = parser.parse_args()
    weights = options.weights
    if options.step:
        print(json.dumps(STEPS[options.step](options.names[0], weights, CASES[weights])))
        return
    rows = []
    for name in options.names:
        if not (OUT / name).exists():
            write_shape(OUT / name, name)
        draw_samples()
        parts = [in_process(step, name, weights) for step in STEPS]
        rows.append({"model": name, "weights": weights, "kv": CASES[weights]} | parts[0] | parts[1])
    common.report("models of published sizes, random weights", rows, options.json)


if __name__ == "__main__":
    main()
