"""A checkpoint of llava135 as the two files of llama.cpp: decoder, and tower with projector.

    python gguf_files.py CHECKPOINT Q4_0 Q8_0 OUT    # type of the decoder's layers, of its head
    python gguf_files.py CHECKPOINT Q8_0 OUT         # of the tower

Runs in llama.cpp's environment. The same weights as every other contestant's, rounded by gguf.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, quants
from safetensors.numpy import load_file

_DECODER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_TOWER = {
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}


class _Writer:
    """A GGUF file of one architecture; matrices in one type, all else in float32."""

    def __init__(self, path: str, architecture: str, kind: str) -> None:
        self.file = gguf.GGUFWriter(path, architecture)
        self.kind = GGMLQuantizationType[kind]

    def add(self, name: str, value: np.ndarray, kind: GGMLQuantizationType | None = None) -> None:
        kind = kind or self.kind
        if value.ndim < 2 or kind == GGMLQuantizationType.F32:
            self.file.add_tensor(name, value.astype(np.float32))
        else:
            self.file.add_tensor(name, quants.quantize(value, kind), raw_dtype=kind)

    def close(self) -> None:
        self.file.write_header_to_file()
        self.file.write_kv_data_to_file()
        self.file.write_tensors_to_file()
        self.file.close()


def write_decoder(checkpoint: Path, kind: str, head_kind: str, out: str) -> None:
    """A llama."""
    config = json.loads((checkpoint / "config.json").read_text())["text_config"]
    weights = load_file(checkpoint / "model.safetensors")
    writer = _Writer(out, "llama", kind)
    _describe_decoder(writer.file, config)
    _add_vocabulary(writer.file, checkpoint, config["vocab_size"])
    top = "language_model.model."
    writer.add("token_embd.weight", weights[f"{top}embed_tokens.weight"])
    head = weights["language_model.lm_head.weight"]
    writer.add("output.weight", head, GGMLQuantizationType[head_kind])
    writer.add("output_norm.weight", weights[f"{top}norm.weight"])
    for layer in range(config["num_hidden_layers"]):
        for theirs, ours in _DECODER.items():
            value = weights[f"{top}layers.{layer}.{theirs}.weight"]
            if ours in ("attn_q", "attn_k"):
                value = _pair_channels(
                    value, config["hidden_size"] // config["num_attention_heads"]
                )
            writer.add(f"blk.{layer}.{ours}.weight", value)
    writer.close()


def _pair_channels(weight: np.ndarray, head: int) -> np.ndarray:
    """Rows in the order of llama.cpp's rotary embedding: neighbours instead of halves turn."""
    halves = weight.reshape(-1, 2, head // 2, weight.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)


def _describe_decoder(file: Any, config: dict[str, Any]) -> None:
    file.add_context_length(config["max_position_embeddings"])
    file.add_embedding_length(config["hidden_size"])
    file.add_block_count(config["num_hidden_layers"])
    file.add_feed_forward_length(config["intermediate_size"])
    file.add_head_count(config["num_attention_heads"])
    file.add_head_count_kv(config["num_key_value_heads"])
    file.add_layer_norm_rms_eps(config["rms_norm_eps"])
    file.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    file.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    file.add_vocab_size(config["vocab_size"])


def _add_vocabulary(file: Any, checkpoint: Path, size: int) -> None:
    """The tokenizer's words, and names for the ids that have none."""
    told = json.loads((checkpoint / "tokenizer.json").read_text())
    known = {index: word for word, index in told["model"]["vocab"].items()}
    known |= {token["id"]: token["content"] for token in told["added_tokens"]}
    merges = [
        " ".join(pair) if isinstance(pair, list) else pair for pair in told["model"]["merges"]
    ]
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre("default")
    file.add_token_list([known.get(index, f"<unused{index}>") for index in range(size)])
    file.add_token_types([1 if index in known else 5 for index in range(size)])  # 5: unused
    file.add_token_merges(merges)
    file.add_bos_token_id(1)
    file.add_eos_token_id(2)


def write_tower(checkpoint: Path, kind: str, out: str) -> None:
    """CLIP's blocks up to the one whose output LLaVA takes, and the projector."""
    config = json.loads((checkpoint / "config.json").read_text())
    vision = config["vision_config"]
    blocks = vision["num_hidden_layers"] + 1 + config["vision_feature_layer"]
    weights = load_file(checkpoint / "model.safetensors")
    writer = _Writer(out, "clip", kind)
    _describe_tower(writer.file, config, blocks)
    top = "vision_tower."
    writer.add("v.class_embd", weights[f"{top}embeddings.class_embedding"])
    patches = weights[f"{top}embeddings.patch_embedding.weight"]
    writer.add("v.patch_embd.weight", patches, GGMLQuantizationType.F16)
    places = weights[f"{top}embeddings.position_embedding.weight"]
    writer.add("v.position_embd.weight", places, GGMLQuantizationType.F32)
    for part in ("weight", "bias"):
        writer.add(f"v.pre_ln.{part}", weights[f"{top}pre_layrnorm.{part}"])
        writer.add(f"mm.0.{part}", weights[f"multi_modal_projector.linear_1.{part}"])
        writer.add(f"mm.2.{part}", weights[f"multi_modal_projector.linear_2.{part}"])
        for block in range(blocks):
            for theirs, ours in _TOWER.items():
                value = weights[f"{top}encoder.layers.{block}.{theirs}.{part}"]
                writer.add(f"v.blk.{block}.{ours}.{part}", value)
    writer.close()


def _describe_tower(file: Any, config: dict[str, Any], blocks: int) -> None:
    vision = config["vision_config"]
    file.add_string("general.type", "mmproj")
    file.add_bool("clip.has_vision_encoder", True)
    file.add_bool("clip.has_llava_projector", True)
    file.add_string("clip.projector_type", "mlp")
    file.add_bool("clip.use_gelu", False)  # CLIP's own: x times sigmoid of 1.702 x
    file.add_uint32("clip.vision.image_size", vision["image_size"])
    file.add_uint32("clip.vision.patch_size", vision["patch_size"])
    file.add_uint32("clip.vision.embedding_length", vision["hidden_size"])
    file.add_uint32("clip.vision.feed_forward_length", vision["intermediate_size"])
    file.add_uint32("clip.vision.projection_dim", config["text_config"]["hidden_size"])
    file.add_uint32("clip.vision.attention.head_count", vision["num_attention_heads"])
    file.add_float32("clip.vision.attention.layer_norm_epsilon", vision["layer_norm_eps"])
    file.add_uint32("clip.vision.block_count", blocks)
    file.add_array("clip.vision.image_mean", [0.48145466, 0.4578275, 0.40821073])
    file.add_array("clip.vision.image_std", [0.26862954, 0.26130258, 0.27577711])


if __name__ == "__main__":
    checkpoint, *kinds, out = sys.argv[1:]
    write = write_decoder if len(kinds) == 2 else write_tower
    write(Path(checkpoint), *kinds, out)
