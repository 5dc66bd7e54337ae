"""Fixtures that many tests share: a tiny model directory, samples, and its exported bundle."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that needed a hub would be a bug
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `edgetok.cli.app` has it

# A shell that starts a job in the background has it ignore SIGINT, and children inherit that;
# tests that interrupt a process need it as a terminal would start it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def load_helper(name: str) -> ModuleType:
    """Import a module of tests/ by its file: with importlib mode, tests are no package."""
    key = f"edgetok_tests_{name}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, Path(__file__).parent / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[key] = module
        spec.loader.exec_module(module)
    return sys.modules[key]


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Measured tables of tests stay out of the user's cache."""
    os.environ["EDGETOK_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA with a CLIP tower and a Llama decoder."""
    path: Path = load_helper("tiny_llava").write_tiny_llava(tmp_path_factory.mktemp("model"))
    return path


@pytest.fixture(scope="session")
def held_bytes() -> Callable[[Any], int]:
    """What a loaded runtime reserved for its KV cache: its buffers are looked at one by one."""
    cache, others = ("past_", "flushed_", "kept_"), {"past_lengths"}

    def measure(runtime: Any) -> int:
        held = runtime._backend.memory._storage.items()
        return sum(s.nbytes for (n, _), s in held if n.startswith(cache) and n not in others)

    return measure


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve random pictures with a question each, as JSONL."""
    folder = tmp_path_factory.mktemp("samples")
    generator = np.random.default_rng(0)
    lines = []
    for number in range(12):
        pixels = generator.integers(0, 255, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        kind = ("global", "detail")[number % 2]
        sample = {"image": f"{number}.png", "prompt": f"What is {number}?", "answer": "a"}
        lines.append(json.dumps(sample | {"kind": kind}))
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "samples.jsonl"


@pytest.fixture(scope="session")
def bundle(model_dir: Path, samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a float32 bundle of three rungs; read-only for tests."""
    from edgetok.export.pipeline import export_model

    out = tmp_path_factory.mktemp("bundles") / "tiny.bundle"
    export_model(
        model_dir,
        out,
        budgets="4,8,full",
        method="visionzip",
        samples=samples,
        prompt_tokens=64,
        new_tokens=16,
        parity_images=2,
    )
    return out


@pytest.fixture(scope="session")
def portable_bundle(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a float32 bundle of three rungs in both flavours; read-only for tests."""
    from edgetok.export.pipeline import export_model

    out = tmp_path_factory.mktemp("bundles") / "portable.bundle"
    options = {"prompt_tokens": 32, "new_tokens": 8, "parity_images": 1}
    export_model(model_dir, out, budgets="4,8,full", flavour="portable", **options)
    return out


@pytest.fixture(scope="session")
def method_cases() -> ModuleType:
    """The module that makes random and adversarial features for methods."""
    return load_helper("methods/conftest")


@pytest.fixture(scope="session")
def tiny_llava() -> ModuleType:
    """The module that writes tiny models of other kinds."""
    return load_helper("tiny_llava")


@pytest.fixture(scope="session", name="load_helper")
def load_helper_fixture() -> object:
    """`load_helper`, for tests that make models of their own."""
    return load_helper
