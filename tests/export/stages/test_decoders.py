"""Every decoder that a family may have, held against Hugging Face's own code by the export gate."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import onnx
import pytest

from edgetok.export.pipeline import export_model

# GQA groups of 3 and 7, heads as wide as real ones.
SHAPES = {
    "groups of 3, head 64": {
        "hidden_size": 96,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 64,
    },
    "groups of 7, head 80": {
        "hidden_size": 112,
        "num_attention_heads": 7,
        "num_key_value_heads": 1,
        "head_dim": 80,
    },
    "head 96": {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 96},
    "head 128": {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 128},
    "head 256": {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 256},
}


DECODERS = (
    *("llama", "mistral", "qwen2", "qwen2-window", "qwen3"),
    *("gemma", "gemma2", "gemma3", "smollm3", "phi3", "phi3-partial", "longrope"),
    *("yarn", "llama3", "dynamic", "biased", "lfm2"),
)


def export(tiny_llava: ModuleType, path: Path, **model: object) -> Path:
    """The gate compares logits and 12 greedy tokens; a bundle that comes out has passed."""
    model_dir = tiny_llava.write_tiny_llava(path / "model", **model)
    out = path / "out.bundle"
    report = export_model(
        model_dir, out, budgets="8,full", method="fastervlm", prompt_tokens=40, parity_images=2
    )
    tokens = [c for c in report.parity["checks"] if c["measure"] == "tokens"]
    assert len(tokens) == 2
    assert all(check["worst"] == 1.0 for check in tokens)
    return out


@pytest.mark.parametrize("decoder", ["gemma2", "mistral"])
def test_decoders_with_caps_and_windows(
    tiny_llava: ModuleType, tmp_path: Path, decoder: str
) -> None:
    out = export(tiny_llava, tmp_path, decoder=decoder)
    graph = onnx.load(out / "onnx/ort/decode.onnx", load_external_data=False).graph
    attentions = [n for n in graph.node if n.op_type == "GroupQueryAttention"]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in attentions[0].attribute}
    assert attributes["local_window_size"] == 12
    assert attributes.get("softcap") == (5.0 if decoder == "gemma2" else None)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder_equals_hugging_face(
    tiny_llava: ModuleType, tmp_path: Path, decoder: str
) -> None:
    export(tiny_llava, tmp_path, decoder=decoder)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("decoder", ["llama", "qwen3"])
def test_odd_shapes_equal_hugging_face(
    tiny_llava: ModuleType, tmp_path: Path, decoder: str, shape: str
) -> None:
    export(tiny_llava, tmp_path, decoder=decoder, shape=SHAPES[shape])
