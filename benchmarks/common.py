"""What the benchmark scripts share: demo samples, bundles made on demand, facts, JSON."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from edgetok.calibration.samples import Sample, load_samples
from edgetok.export.pipeline import export_model
from edgetok.runtimes.device import machine

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "examples/demo_vlm/checkpoint"
OUT = ROOT / "out/benchmarks"
BUDGETS = (32, 64, 128, 192, 576)


def arguments(description: str | None, **defaults: Any) -> argparse.Namespace:
    """Options `--name value` with the given defaults, `--model`, and `--json FILE` for results."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--json", type=Path, help="write the results into this file")
    for name, default in defaults.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(default, tuple):
            parser.add_argument(flag, nargs="+", type=type(default[0]), default=default)
        else:
            parser.add_argument(flag, type=type(default), default=default)
    return parser.parse_args()


def load_module(path: str) -> ModuleType:
    """A module of this repository that is in no package, by its file."""
    name = f"edgetok_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    assert spec is not None and spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def load_building() -> ModuleType:
    """What builds single graphs, for tests and here."""
    return load_module("tests/export/building.py")


def demo_samples(split: str, count: int, per_image: int = 4, start: int = 0) -> tuple[Sample, ...]:
    """Questions of a split of the demo data from its scene `start` on, drawn once."""
    name = f"{split}-{count}" if per_image == 4 else f"{split}-{count}-by-{per_image}"
    folder = OUT / (f"{name}-from-{start}" if start else name)
    if not (folder / "samples.jsonl").exists():
        maker = [sys.executable, "make.py", "--split", split, "--count", str(count)]
        maker += ["--questions-per-image", str(per_image), "--start", str(start)]
        subprocess.run([*maker, "-o", str(folder)], cwd=ROOT / "examples/demo_vlm", check=True)
    return load_samples(folder / "samples.jsonl")


def demo_bundle(model: Path, **options: Any) -> Path:
    """Export with these options, unless a bundle of the same model, options and code is there."""
    demo_samples("calibrate", 64)
    defaults = {"method": "visionzip", "seed": 0, "weights": "fp32", "kv": "fp32"}
    options = defaults | options
    made_of = json.dumps([_digest_of(model), sorted(options.items())], default=str)
    name = hashlib.sha256(made_of.encode()).hexdigest()[:12]
    out = OUT / f"{options['method']}-{name}.bundle"
    if not out.exists():
        samples = OUT / "calibrate-64/samples.jsonl"
        export_model(model, out, samples=samples, parity_images=1, **options)
    return out


def _digest_of(model: Path) -> str:
    """Of the weights and of the code that exports them."""
    digest = hashlib.sha256((model / "model.safetensors").read_bytes())
    for folder in ("edgetok", "export", "calibration"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def mcnemar(wins: int, losses: int) -> float:
    """Exact two-sided p that two answerers of the same questions are equally good.

    Of the questions that only one of them answers right, each is as likely to win.

    >>> round(mcnemar(8, 1), 4)
    0.0391
    """
    decided, fewer = wins + losses, min(wins, losses)
    tail = sum(math.comb(decided, i) for i in range(fewer + 1)) / 2**decided
    return min(1.0, 2 * tail)


def facts() -> dict[str, Any]:
    """Machine and versions, for the head of every result."""
    libraries = ("torch", "transformers", "onnx", "onnxruntime")
    return machine.facts() | {name: version(name) for name in libraries}


def report(
    title: str, rows: Sequence[dict[str, Any]], path: Path | None, of: Sequence[str] = ()
) -> None:
    """Print facts and rows as a Markdown table; write both as JSON if a path is given.

    Rows under the same title in a file that is there stay, unless they agree in the columns `of`
    with a new one; without `of` none stays.
    """
    print(f"\n{title}\n{json.dumps(facts())}\n")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(_show(row.get(column, "")) for column in columns) + " |")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        result = {"title": title, "machine": facts(), "rows": list(rows)}
        if of and path.exists():
            result["rows"] = merge_rows(json.loads(path.read_text()), title, rows, of)
        path.write_text(json.dumps(result, indent=1) + "\n")


def merge_rows(
    before: dict[str, Any], title: str, rows: Sequence[dict[str, Any]], of: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows of a report under this title, each new one in the place of that with its `of`.

    >>> old = {"title": "t", "rows": [{"kv": "a", "n": 1}, {"kv": "b", "n": 2}]}
    >>> merge_rows(old, "t", [{"kv": "a", "n": 3}, {"kv": "c", "n": 4}], ["kv"])
    [{'kv': 'a', 'n': 3}, {'kv': 'b', 'n': 2}, {'kv': 'c', 'n': 4}]
    """
    old = before["rows"] if before["title"] == title else []
    found = {tuple(row[name] for name in of): row for row in [*old, *rows]}
    return list(found.values())


def _show(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
