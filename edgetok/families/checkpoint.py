"""Reading a model directory as data: JSON and safetensors, never pickle, never its Python code."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgetok import limits
from edgetok.errors import InputError
from edgetok.scratch import Scratch

# Each names code or a way to code. `_attn_implementation_internal` is CVE-2026-4372.
_CODE_FIELDS = ("auto_map", "_attn_implementation_internal", "model_file", "custom_pipelines")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model directory that passed the checks of `read_checkpoint`.

    `scratch` is where weights are put that it does not hold in float32.
    """

    path: Path
    config: dict[str, Any]
    scratch: Scratch = field(default_factory=Scratch)

    @property
    def model_type(self) -> str:
        return str(self.config.get("model_type"))

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON object of the directory, or an empty one if the file is missing."""
        path = self.path / name
        return read_json_object(path) if path.exists() else {}


def read_checkpoint(model_dir: Path, *, tokenizer: bool = True) -> Checkpoint:
    """Check a Hugging Face model directory before anything of it is loaded.

    Args:
        tokenizer: whether there must be one.

    Raises:
        InputError: if it is no model directory, has pickle weights only, misses shards, or asks
            for code of its own.
    """
    path = Path(model_dir)
    if not path.is_dir():
        raise InputError(
            f"{path} is not a directory; give a local Hugging Face model directory "
            "(download one with `hf download ORG/MODEL --local-dir DIR`)"
        )
    if not (path / "config.json").is_file():
        raise InputError(f"{path} has no config.json, so it is no Hugging Face model directory")
    checkpoint = Checkpoint(path, read_json_object(path / "config.json"))
    _refuse_code(checkpoint.config, path / "config.json")
    for name in ("tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        _refuse_code(checkpoint.read_json(name), path / name)
    _require_weights(path)
    if tokenizer:
        require_tokenizer(path)
    return checkpoint


def require_tokenizer(path: Path) -> None:
    """Refuse a model directory without `tokenizer.json`, or with one that is too large.

    Raises:
        InputError: saying how to make one.
    """
    file = path / "tokenizer.json"
    if file.is_file() and (size_bytes := file.stat().st_size) > limits.TOKENIZER_BYTES:
        raise InputError(
            f"{file} has {size_bytes} bytes; a tokenizer has at most {limits.TOKENIZER_BYTES}"
        )
    if not file.is_file():
        raise InputError(
            f"{path} has no tokenizer.json; save the model's fast tokenizer into it with "
            "`AutoTokenizer.from_pretrained(...).save_pretrained(DIR)`"
        )


def read_json_object(path: Path, limit_bytes: int = limits.CONFIG_BYTES) -> dict[str, Any]:
    """Parse a small JSON file.

    Raises:
        InputError: if it is too large, unreadable, or no JSON object.
    """
    try:
        size = path.stat().st_size
        if size > limit_bytes:
            raise InputError(f"{path} has {size} bytes; at most {limit_bytes} are read")
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__}, not a JSON object")
    return value


def _refuse_code(value: Any, path: Path) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in _CODE_FIELDS and inner:
                raise InputError(
                    f"{path}: {key!r} asks to run code from the checkpoint, which edgetok "
                    "never does; use a model whose architecture is part of transformers"
                )
            _refuse_code(inner, path)
    elif isinstance(value, list):
        for inner in value:
            _refuse_code(inner, path)


def _require_weights(path: Path) -> None:
    index = path / "model.safetensors.index.json"
    if index.is_file():
        shards = set(map(str, read_json_object(index).get("weight_map", {}).values()))
        missing = sorted(name for name in shards if not (path / name).is_file())
        if missing or not shards:
            raise InputError(
                f"{index.name} names shards that are missing: {missing or 'none at all'}"
            )
    elif not (path / "model.safetensors").is_file():
        pickles = sorted(p.name for pattern in _PICKLES for p in path.glob(pattern))
        if pickles:
            raise InputError(
                f"{path} has pickle weights only ({pickles[0]}), which can run code when loaded; "
                "convert them with `model.save_pretrained(DIR, safe_serialization=True)`"
            )
        raise InputError(f"{path} has no model.safetensors and no model.safetensors.index.json")
