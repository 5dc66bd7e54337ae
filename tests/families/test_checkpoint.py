"""Model directories that must be refused before anything of them is loaded."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgetok import limits
from edgetok.errors import InputError
from edgetok.families import open_model
from edgetok.families.checkpoint import read_checkpoint


@pytest.fixture
def copy(model_dir: Path, tmp_path: Path) -> Path:
    """A model directory of one's own, to spoil."""
    return Path(shutil.copytree(model_dir, tmp_path / "model"))


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _pickle_only(path: Path) -> None:
    (path / "model.safetensors").unlink()
    torch.save({}, path / "pytorch_model.bin")


def _missing_shard(path: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def _nested_remote_code(path: Path) -> None:
    config = json.loads((path / "config.json").read_text())
    config["text_config"]["auto_map"] = {"AutoModel": "evil.Model"}
    (path / "config.json").write_text(json.dumps(config))


def _nan_weight(path: Path) -> None:
    weights = load_file(path / "model.safetensors")
    name = next(iter(weights))
    weights[name][..., 0] = float("nan")
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})


def _missing_weight(path: Path) -> None:
    weights = load_file(path / "model.safetensors")
    weights.pop(next(name for name in weights if "q_proj" in name))
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})


def _truncated_weights(path: Path) -> None:
    data = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(data[: len(data) // 2])


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda p: (p / "config.json").unlink(), "no config.json"),
    "config is a list": (lambda p: (p / "config.json").write_text("[]"), "not a JSON object"),
    "config is no JSON": (lambda p: (p / "config.json").write_text("{"), "cannot be read as JSON"),
    "config is nested": (lambda p: (p / "config.json").write_text("[" * 10**5), "cannot be read"),
    "other architecture": (
        lambda p: _edit(p / "config.json", model_type="mamba"),
        r"'mamba' is not supported; edgetok knows fast_vlm, .*lfm2_vl, llava, .*adding-a-family",
    ),
    "auto_map": (lambda p: _edit(p / "config.json", auto_map={"AutoModel": "x.Y"}), "auto_map"),
    "auto_map inside": (_nested_remote_code, "auto_map"),
    "attention from a hub": (
        lambda p: _edit(p / "config.json", _attn_implementation_internal="hub/kernel"),
        "_attn_implementation_internal",
    ),
    "code in the tokenizer": (
        lambda p: _edit(p / "tokenizer_config.json", auto_map={"AutoTokenizer": ["x.Y", None]}),
        "auto_map",
    ),
    "pickle only": (_pickle_only, "pickle"),
    "no weights": (lambda p: (p / "model.safetensors").unlink(), "no model.safetensors"),
    "missing shard": (_missing_shard, "00001-of-00002"),
    "no tokenizer": (lambda p: (p / "tokenizer.json").unlink(), "no tokenizer.json"),
    "giant tokenizer": (
        lambda p: os.truncate(p / "tokenizer.json", limits.TOKENIZER_BYTES + 1),
        r"tokenizer\.json has 268435457 bytes; a tokenizer has at most 268435456",
    ),
    "no chat template": (lambda p: (p / "chat_template.jinja").unlink(), "no chat template"),
    "no processor": (lambda p: (p / "preprocessor_config.json").unlink(), "image_processor"),
    "other image size": (
        lambda p: _edit(p / "preprocessor_config.json", crop_size={"height": 8, "width": 8}),
        "tower wants 32",
    ),
    "list of layers": (
        lambda p: _edit(p / "config.json", vision_feature_layer=[-2, -1]),
        "vision_feature_layer",
    ),
    "CLS to the decoder": (
        lambda p: _edit(p / "config.json", vision_feature_select_strategy="full"),
        "full",
    ),
    "NaN weight": (_nan_weight, "NaN"),
    "missing weight": (_missing_weight, "missing"),
    "truncated weights": (_truncated_weights, "cannot be loaded"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_spoiled_directory_is_refused(copy: Path, case: str) -> None:
    spoil, message = SPOILED[case]
    spoil(copy)
    with pytest.raises(InputError, match=message):
        open_model(copy)


def test_not_a_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a directory"):
        read_checkpoint(tmp_path / "nothing")


def test_parts_point_at_the_feature_layer(model_dir: Path) -> None:
    parts = open_model(model_dir)
    assert len(parts.vision.blocks) == 2  # of three: the projector reads the last but one
    assert parts.vision.full_tokens == 16 and parts.vision.prefix_tokens == 1
    assert parts.text.stop_ids == (2,) and parts.text.head_dim == 16
    assert not any(weight.requires_grad for weight in parts.model.parameters())
