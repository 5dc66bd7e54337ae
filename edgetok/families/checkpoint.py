"""Reading a model directory as data: JSON and safetensors, never pickle, never its Python code."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NoReturn

from edgetok import limits
from edgetok.errors import InputError
from edgetok.scratch import Scratch

# Each names code or a way to code. `_attn_implementation_internal` is CVE-2026-4372.
_CODE_FIELDS = ("auto_map", "_attn_implementation_internal", "model_file", "custom_pipelines")
# Written by transformers; by Mistral and ModelOpt; by MLX.
_QUANTIZED_FIELDS = ("quantization_config", "compression_config", "quantization")
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
        InputError: if it is no model directory, has quantized or pickle weights only, misses
            shards, or asks for code of its own.
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
    _refuse_quantized(checkpoint.config, path / "config.json")
    for name in ("tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        _refuse_code(checkpoint.read_json(name), path / name)
    list_weight_files(path)
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


def _refuse_quantized(value: Any, path: Path) -> None:
    """Refuse weights that are packed in a way of their own, wherever a configuration says so."""
    if isinstance(value, list):
        for each in value:
            _refuse_quantized(each, path)
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        if key in _QUANTIZED_FIELDS and inner:
            raise InputError(
                f"{path}: the weights are quantized ({_name_quantization(inner)}), and edgetok "
                "reads float weights; export the original model instead, with --weights int8 or "
                "int4 to have small weights again"
            )
        _refuse_quantized(inner, path)


def _name_quantization(config: Any) -> str:
    """How a quantization is called, with its bits where they are said."""
    if not isinstance(config, dict):
        return str(config)[:80]
    four, eight = config.get("load_in_4bit"), config.get("load_in_8bit")
    default = "bitsandbytes" if four or eight else "a method that has no name"
    bits = config.get("bits", 4 if four else 8 if eight else None)
    name = str(config.get("quant_method") or config.get("quant_algo") or default)[:80]
    return f"{name}, {bits} bits" if isinstance(bits, int) else name


def list_weight_files(path: Path) -> list[Path]:
    """The safetensors files of a model directory: the single one, else the shards of its index.

    Raises:
        InputError: if there are none, some are missing, or a name leaves the directory.
    """
    single, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        _refuse_missing(path)
    places = read_json_object(index).get("weight_map")
    shards = set(places.values()) if isinstance(places, dict) and _is_map(places) else set()
    for name in sorted(shards):
        _require_inside(name, index)
    missing = sorted(name for name in shards if not (path / name).is_file())
    if missing or not shards:
        raise InputError(f"{index.name} names shards that are missing: {missing or 'none at all'}")
    return [path / name for name in sorted(shards)]


def _is_map(places: Any) -> bool:
    return isinstance(places, dict) and all(isinstance(name, str) for name in places.values())


def _require_inside(name: str, index: Path) -> None:
    """Links are followed, as caches of Hugging Face are made of them; names must stay inside."""
    kinds = (PurePosixPath(name), PureWindowsPath(name))
    leaves = any(kind.anchor or ".." in kind.parts for kind in kinds)
    if leaves or "\0" in name or not name.endswith(".safetensors"):
        raise InputError(
            f"{index}: shard {name[:200]!r} is no safetensors file inside the model directory; "
            "download the model again"
        )


def _refuse_missing(path: Path) -> NoReturn:
    pickles = sorted(p.name for pattern in _PICKLES for p in path.glob(pattern))
    if pickles:
        raise InputError(
            f"{path} has pickle weights only ({pickles[0]}), which can run code when loaded; "
            "convert them with `model.save_pretrained(DIR, safe_serialization=True)`"
        )
    raise InputError(f"{path} has no model.safetensors and no model.safetensors.index.json")
