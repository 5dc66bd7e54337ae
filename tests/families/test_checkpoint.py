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
from edgetok.families.checkpoint import list_weight_files, read_checkpoint


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
    (path / "model.safetensors").unlink()
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


def _name_shard(name: str) -> Callable[[Path], object]:
    def spoil(path: Path) -> None:
        (path / "model.safetensors").rename(path.parent / "model.safetensors")
        index = {"weight_map": {"a": name}}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))

    return spoil


def _large_config(path: Path) -> None:
    config = json.loads((path / "config.json").read_text())
    config["text_config"] |= {"hidden_size": 8192, "intermediate_size": 32768}
    (path / "config.json").write_text(json.dumps(config))


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
    "shard above": (_name_shard("../model.safetensors"), "inside the model directory"),
    "shard at a root": (_name_shard("/tmp/model.safetensors"), "inside the model directory"),
    "shard on a drive": (_name_shard("C:\\model.safetensors"), "inside the model directory"),
    "shard of pickle": (_name_shard("config.json"), "no safetensors file"),
    "larger configuration": (_large_config, r"describes [0-9,]+ weights and .* hold 2[0-9,]+;"),
    "GPTQ": (
        lambda p: _edit(p / "config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        r"quantized \(gptq, 4 bits\), and edgetok reads float weights; export the original",
    ),
    "bitsandbytes of old": (
        lambda p: _edit(p / "config.json", quantization_config={"load_in_4bit": True}),
        r"quantized \(bitsandbytes, 4 bits\)",
    ),
    "missing weight": (_missing_weight, "missing"),
    "truncated weights": (_truncated_weights, "cannot be loaded"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_spoiled_directory_is_refused(copy: Path, case: str) -> None:
    spoil, message = SPOILED[case]
    spoil(copy)
    with pytest.raises(InputError, match=message):
        open_model(copy)


def test_a_single_file_comes_before_an_index(copy: Path) -> None:
    """As transformers resolves them: shards left from before are not read."""
    weights = load_file(copy / "model.safetensors")
    shard = {name: weight + 1 for name, weight in weights.items()}
    save_file(shard, copy / "model-00001-of-00001.safetensors", metadata={"format": "pt"})
    index = {"weight_map": dict.fromkeys(shard, "model-00001-of-00001.safetensors")}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    name = next(name for name in weights if name.endswith("embed_tokens.weight"))
    assert torch.equal(open_model(copy).text.embed.weight, weights[name])
    (copy / "model.safetensors").unlink()
    assert torch.equal(open_model(copy).text.embed.weight, shard[name])


def test_shards_may_be_links_as_in_a_cache(copy: Path) -> None:
    (copy.parent / "blobs").mkdir()
    blob = (copy / "model.safetensors").rename(copy.parent / "blobs" / "0123")
    (copy / "model.safetensors").symlink_to(blob)
    assert list_weight_files(copy) == [copy / "model.safetensors"]
    assert open_model(copy).family == "llava"


def test_the_nested_processor_comes_before_the_old_file(copy: Path) -> None:
    old = json.loads((copy / "preprocessor_config.json").read_text())
    nested = {"image_processor": old | {"image_mean": [0.1, 0.2, 0.3]}}
    (copy / "processor_config.json").write_text(json.dumps(nested))
    assert open_model(copy).image.mean == [0.1, 0.2, 0.3]


def test_of_named_templates_the_default_is_read(copy: Path) -> None:
    template = (copy / "chat_template.jinja").read_text()
    wanted = open_model(copy).prompt
    (copy / "chat_template.jinja").unlink()
    entries = [{"name": "tool", "template": "{{ x }}"}, {"name": "default", "template": template}]
    _edit(copy / "tokenizer_config.json", chat_template=entries)
    assert open_model(copy).prompt == wanted
    (copy / "chat_template.jinja").write_text("old")
    (copy / "additional_chat_templates").mkdir()
    (copy / "additional_chat_templates" / "default.jinja").write_text(template)
    assert open_model(copy).prompt == wanted


def test_not_a_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a directory"):
        read_checkpoint(tmp_path / "nothing")


def test_parts_point_at_the_feature_layer(model_dir: Path) -> None:
    parts = open_model(model_dir)
    assert len(parts.vision.blocks) == 2  # of three: the projector reads the last but one
    assert parts.vision.full_tokens == 16 and parts.vision.prefix_tokens == 1
    assert parts.text.stop_ids == (2,) and parts.text.head_dim == 16
    assert not any(weight.requires_grad for weight in parts.model.parameters())
