"""Virtual environments, one per contestant that brings its own libraries; made on first use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Environment:
    """What `pip install` is given, and what is taken away again."""

    packages: tuple[str, ...]
    unwanted: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


_TORCH = "torch<2.14"  # with a CPU build on the index, as edgetok's own
ENVIRONMENTS = {
    "llama.cpp": Environment(
        ("llama-cpp-python", "gguf", "safetensors"),  # compiled here: ten minutes of two cores
        variables={"CMAKE_ARGS": "-DGGML_NATIVE=ON", "CMAKE_BUILD_PARALLEL_LEVEL": "2"},
    ),
    "openvino": Environment(("openvino-genai", "numpy")),
    # The newest transformers with which optimum-intel 2.2 converts Qwen2-VL. It asks for
    # torchvision, whose build is for CUDA's torch and does not load beside another.
    "optimum": Environment(
        (_TORCH, "transformers==5.0.*", "optimum-intel[openvino]"), ("torchvision",)
    ),
    "onnxruntime": Environment((_TORCH, "onnxruntime-genai", "transformers", "onnx", "onnx-ir")),
}


def prepare_environment(name: str, folder: Path) -> Path:
    """The Python of this environment, made anew where the recipe is another than it was made by.

    Raises:
        RuntimeError: if pip fails, with the end of what it said.
    """
    recipe = ENVIRONMENTS[name]
    home, stamp = folder / name, folder / name / "recipe.json"
    python = home / "bin/python"
    wanted = json.dumps([recipe.packages, recipe.unwanted, dict(recipe.variables)])
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"making the environment of {name}", file=sys.stderr, flush=True)
    _run([sys.executable, "-m", "venv", home])
    _run([python, "-m", "pip", "install", "-q", *recipe.packages], recipe.variables)
    if recipe.unwanted:
        _run([python, "-m", "pip", "uninstall", "-q", "-y", *recipe.unwanted])
    stamp.write_text(wanted)
    return python


def _run(command: list[str | Path], variables: Mapping[str, str] | None = None) -> None:
    words = [str(word) for word in command]
    environment = os.environ | (variables or {})
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}\n{done.stderr[-2000:]}")
