"""Write what a fuzzer starts from: small files of every kind that is read, all of them good.

python benchmarks/cpp_seeds.py FOLDER

The first byte of each says which reader it is for, see reader.cpp.
"""

from __future__ import annotations

import importlib.util
import io
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from edgetok.bundle.manifest import File
from edgetok.bundle.processor import IMAGE_FILE, PROMPT_FILE, TOKENIZER_FILE
from edgetok.bundle.strict import encode_strict

BUNDLES = Path(__file__).resolve().parents[1] / "tests" / "bundle"

ORIENTATION = 0x0112
ROW = {"budget": 4, "ttft_ms_p50": 1.5, "ttft_ms_p95": 2e0, "decode_ms_p50": 0.25, "memory_mib": 90}
TABLE = {"bundle_digest": "d" * 64, "device": "cpu", "rows": [ROW]}  # the digest: see reader.cpp


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for number, (kind, data) in enumerate(_seeds()):
        (folder / f"seed-{number}").write_bytes(bytes([kind]) + data)


def _seeds() -> list[tuple[int, bytes]]:
    tiny, encoder = _load(BUNDLES / "tiny.py"), _load(BUNDLES / "tiny_encoder.py")
    caches = [(0, manifest) for manifest in _caches(tiny)]
    graphs = [(2, model.SerializeToString()) for _, model in tiny.graphs()]
    contents = tiny.contents()
    plans = [(1, contents["processor/image.json"]), (4, contents["processor/prompt.json"])]
    pictures = [(3, file) for file in _pictures()]
    with tempfile.TemporaryDirectory() as folder:
        made = [encoder.write(Path(folder) / task, task) for task in ("classify", "similarity")]
        manifests = [(0, (bundle / "manifest.json").read_bytes()) for bundle in made]
    return [
        (0, tiny.good_manifest()),
        *manifests,
        *caches,
        *plans,
        *graphs,
        *pictures,
        (5, json.dumps(TABLE).encode()),
    ]


def _caches(tiny: Any) -> Iterator[bytes]:
    """The manifest of each kind of KV cache, with all the graphs that it needs."""
    schemes = _load(BUNDLES / "schemes.py")
    rest = tiny.manifest().stages
    for make in schemes.SCHEMES.values():
        manifest = schemes.manifest_of(tiny, make())
        stages = [msgspec.structs.replace(stage, flavour="ort") for stage in manifest.stages]
        stages += [msgspec.structs.replace(s, budget=4) for s in stages if s.stage == "segment"]
        names = {stage.stage for stage in stages} | {"extend"}
        stages += [stage for stage in rest if stage.stage not in names]
        ladder = [
            msgspec.structs.replace(rung, removed=[0] * manifest.kv.layers)
            for rung in manifest.ladder
        ]
        paths = (IMAGE_FILE, PROMPT_FILE, TOKENIZER_FILE, *(stage.file for stage in stages))
        files = {path: File(bytes=1, sha256="0" * 64) for path in paths}
        changed = {"stages": stages, "ladder": ladder, "files": files}
        yield encode_strict(msgspec.structs.replace(manifest, **changed))


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is missing; run this from a checkout")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _pictures() -> Iterator[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    picture = Image.fromarray(pixels)
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    yield _encode(picture, "JPEG", exif=turned)
    yield _encode(picture, "JPEG", progressive=True)
    yield _encode(picture.convert("L"), "JPEG")
    yield _encode(picture, "PNG")
    for mode in ("L", "LA", "P", "1", "I;16", "RGBA"):
        yield _encode(picture.convert("L").convert(mode), "PNG")
    yield _encode(picture.convert("P"), "PNG", transparency=3)
    yield _encode(picture.convert("CMYK"), "JPEG")
    for lossless in (False, True):
        yield _encode(picture, "WEBP", lossless=lossless, exif=turned)


def _encode(picture: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


if __name__ == "__main__":
    main()
