"""Write what a fuzzer starts from: a small manifest, image plan, graph and pictures that are good.

python benchmarks/cpp_seeds.py FOLDER

The first byte of each says which reader it is for, see reader.cpp.
"""

from __future__ import annotations

import importlib.util
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

TINY = Path(__file__).resolve().parents[1] / "tests" / "bundle" / "tiny.py"


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for number, (kind, data) in enumerate(_seeds()):
        (folder / f"seed-{number}").write_bytes(bytes([kind]) + data)


def _seeds() -> list[tuple[int, bytes]]:
    spec = importlib.util.spec_from_file_location("tiny_bundle", TINY)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{TINY} is missing; run this from a checkout")
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    graphs = [(2, model.SerializeToString()) for _, model in tiny.graphs()]
    plan = tiny.contents()["processor/image.json"]
    return [(0, tiny.good_manifest()), (1, plan), *graphs, (3, _file("JPEG")), (3, _file("PNG"))]


def _file(kind: str) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


if __name__ == "__main__":
    main()
