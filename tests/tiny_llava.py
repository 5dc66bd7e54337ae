"""A LLaVA small enough to export in seconds: random weights, 16 visual tokens, two layers."""

from __future__ import annotations

import json
from pathlib import Path

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
DECODERS: dict[str, tuple[type[PretrainedConfig], dict[str, object]]] = {
    "llama": (LlamaConfig, {}),
    "mistral": (MistralConfig, WINDOW),
    "qwen2": (Qwen2Config, {}),
    "qwen2-window": (Qwen2Config, WINDOW | {"use_sliding_window": True, "max_window_layers": 1}),
    "qwen3": (Qwen3Config, {}),
    "gemma": (GemmaConfig, {}),
    "gemma2": (Gemma2Config, WINDOW | {"attn_logit_softcapping": 5.0}),
    "gemma3": (Gemma3TextConfig, WINDOW | {"layer_types": ["sliding_attention", "full_attention"]}),
    "smollm3": (SmolLM3Config, {}),
    "phi3": (Phi3Config, {}),
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
    return kind(
        **sizes | shape | extras,
        vocab_size=vocabulary,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


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
