"""A LLaVA small enough to export in seconds: random weights, 16 visual tokens, two layers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    Lfm2Config,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    SiglipVisionConfig,
    SmolLM3Config,
)

SPECIAL = ["<pad>", "<s>", "</s>", "<image>"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ 'ASSISTANT: ' }}{% else %}{{ 'USER: ' }}{% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>\n' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ ' ' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
SIDE_PX = 32
WINDOW = {"sliding_window": 12}  # shorter than any prompt with an image
Sizes = dict[str, Any]


def _scale(**rope: object) -> Sizes:
    return {"rope_parameters": {"rope_theta": 10000.0, **rope}}


def _partial(sizes: Sizes) -> Sizes:
    """32 channels of each head are turned, the others are not."""
    width = max(64, sizes["head_dim"])
    rope = _scale(rope_type="default", partial_rotary_factor=32 / width)
    return rope | {"head_dim": width}


def _longrope(sizes: Sizes) -> Sizes:
    """Two sets of angles: for texts of up to 224 rows, and for longer ones."""
    pairs = sizes["head_dim"] // 2
    factors = {"short_factor": [1.5] * pairs, "long_factor": [4.0] * pairs}
    return _scale(rope_type="longrope", original_max_position_embeddings=224, **factors)


# By name: the configuration, and what it has beside its sizes or makes of them.
DECODERS: dict[str, tuple[type[PretrainedConfig], Sizes | Callable[[Sizes], Sizes]]] = {
    "llama": (LlamaConfig, {}),
    "mistral": (MistralConfig, WINDOW),
    "qwen2": (Qwen2Config, {}),
    "qwen2-window": (Qwen2Config, WINDOW | {"use_sliding_window": True, "max_window_layers": 1}),
    "qwen3": (Qwen3Config, {}),
    "gemma": (GemmaConfig, {}),
    "gemma2": (Gemma2Config, WINDOW | {"attn_logit_softcapping": 5.0}),
    "gemma3": (Gemma3TextConfig, WINDOW | {"layer_types": ["sliding_attention", "full_attention"]}),
    "smollm3": (SmolLM3Config, {"num_hidden_layers": 4, "no_rope_layers": [1, 0, 1, 1]}),
    "phi3": (Phi3Config, {}),
    "phi3-partial": (Phi3Config, _partial),
    "longrope": (LlamaConfig, _longrope),
    "yarn": (Qwen2Config, _scale(rope_type="yarn", factor=4.0)),
    "llama3": (
        LlamaConfig,
        _scale(
            rope_type="llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=64,
        ),
    ),
    "dynamic": (LlamaConfig, _scale(rope_type="dynamic", factor=2.0)),
    "biased": (
        LlamaConfig,
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
    ),
    "lfm2": (
        Lfm2Config,
        {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention", "conv", "conv"]},
    ),
}


def write_tiny_llava(
    path: Path,
    *,
    tower: str = "clip",
    decoder: str = "llama",
    side_px: int = SIDE_PX,
    vision_layers: int = 3,
    shape: dict[str, int] | None = None,
) -> Path:
    """Write a model with seeded weights; `tower` is clip or siglip, `decoder` one of `DECODERS`.

    `shape` changes the decoder's widths, heads and layers.
    """
    tokenizer = _make_tokenizer()
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=_vision(tower, side_px, vision_layers),
        text_config=_text(decoder, tokenizer.get_vocab_size(), shape or {}),
        image_token_id=3,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default" if tower == "clip" else "full",
        projector_hidden_act="gelu",
    )
    model = LlavaForConditionalGeneration(config).eval()
    for weight in model.parameters():
        if weight.ndim > 1:  # spread, so that answers depend on the image
            torch.nn.init.normal_(weight, std=1.5 / weight.shape[-1] ** 0.5)
        else:
            weight.data += 0.1 * torch.randn_like(weight)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(path)
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "chat_template.jinja").write_text(TEMPLATE)
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    (path / "tokenizer_config.json").write_text(
        json.dumps(names | {"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    (path / "preprocessor_config.json").write_text(json.dumps(_processor(side_px)))
    return path


def _vision(tower: str, side_px: int, layers: int) -> CLIPVisionConfig | SiglipVisionConfig:
    kind = CLIPVisionConfig if tower == "clip" else SiglipVisionConfig
    return kind(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        image_size=side_px,
        patch_size=8,
    )


def _text(decoder: str, vocabulary: int, shape: dict[str, int]) -> PretrainedConfig:
    kind, extras = DECODERS[decoder]
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }
    common = {
        "vocab_size": vocabulary,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    extras = extras(sizes | shape) if callable(extras) else extras
    return kind(**common | sizes | shape | extras)


def _make_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        ["USER: What is in the picture? ASSISTANT: a red circle"], trainer
    )
    return tokenizer


def _processor(side_px: int) -> dict[str, object]:
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side_px},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side_px, "width": side_px},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25],
    }
