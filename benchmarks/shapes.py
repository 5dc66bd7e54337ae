"""Checkpoints of published shapes with random weights: what no download is needed for.

Layer types, widths, depths, vocabularies and picture sizes are those of the named models; answers
mean nothing. Run it to write one: `python benchmarks/shapes.py qwen2-vl-2b -o DIR`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

_SPECIAL = ["<pad>", "<s>", "</s>"]
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}\n{% endfor %}assistant:"
)
_HALVES = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


@dataclass(frozen=True)
class Shape:
    """A published model's shape.

    Args:
        config: of the tokenizer's vocabulary -> the model's configuration.
        image: what the chat template writes for a picture.
        options: of `edgetok export` for this shape.
    """

    kind: str
    config: Callable[[dict[str, int]], Any]
    processor: dict[str, Any]
    image: str
    tokens: tuple[str, ...]
    options: dict[str, Any]


def _text(kind: str, **sizes: Any) -> Any:
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return getattr(transformers, kind)(tie_word_embeddings=True, **ids, **sizes)


def _smolvlm(vocabulary: dict[str, int]) -> Any:
    """SmolVLM-256M: SigLIP base at 512 pixels, SmolLM2-135M."""
    return transformers.SmolVLMConfig(
        vision_config=transformers.SmolVLMVisionConfig(
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            image_size=512,
            patch_size=16,
        ),
        text_config=_text(
            "LlamaConfig",
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            vocab_size=49280,
            max_position_embeddings=8192,
            rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        ),
        image_token_id=vocabulary["<image>"],
        scale_factor=4,
        pad_token_id=0,
        tie_word_embeddings=True,
    )


def _onevision(vocabulary: dict[str, int]) -> Any:
    """LLaVA-OneVision 0.5B: SigLIP so400m at 384 pixels without its last layer, Qwen2 0.5B."""
    return transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(
            hidden_size=1152,
            intermediate_size=4304,
            num_hidden_layers=26,
            num_attention_heads=16,
            image_size=384,
            patch_size=14,
            vision_use_head=False,
        ),
        text_config=_text(
            "Qwen2Config",
            hidden_size=896,
            intermediate_size=4864,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
            vocab_size=152000,
            max_position_embeddings=32768,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        ),
        image_token_id=vocabulary["<image>"],
        video_token_id=vocabulary["<video>"],
        image_grid_pinpoints=[[384, 768], [768, 384], [768, 768]],
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )


def _qwen2_vl(vocabulary: dict[str, int]) -> Any:
    """Qwen2-VL 2B."""
    text = _text(
        "Qwen2VLTextConfig",
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        vocab_size=151936,
        max_position_embeddings=32768,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 1000000.0,
            "mrope_section": [16, 24, 24],
        },
    )
    return transformers.Qwen2VLConfig(
        text_config=text.to_dict(),
        vision_config={"depth": 32, "embed_dim": 1280, "num_heads": 16, "hidden_size": 1536},
        image_token_id=vocabulary["<|image_pad|>"],
        video_token_id=vocabulary["<|video_pad|>"],
        vision_start_token_id=vocabulary["<|vision_start|>"],
        vision_end_token_id=vocabulary["<|vision_end|>"],
        tie_word_embeddings=True,
    )


SHAPES = {
    "smolvlm-256m": Shape(
        "SmolVLMForConditionalGeneration",
        _smolvlm,
        {
            "image_processor_type": "SmolVLMImageProcessor",
            "do_resize": True,
            "size": {"longest_edge": 2048},
            "max_image_size": {"longest_edge": 512},
            "resample": 1,
            "do_image_splitting": True,
            "do_pad": True,
            **_HALVES,
        },
        "<image>",
        ("<image>", "<fake_token_around_image>", "<global-img>"),
        {"method": "divprune", "budgets": "16,32,48,64"},
    ),
    "llava-onevision-0.5b": Shape(
        "LlavaOnevisionForConditionalGeneration",
        _onevision,
        {
            "image_processor_type": "LlavaOnevisionImageProcessor",
            "do_resize": True,
            "size": {"height": 384, "width": 384},
            "resample": 3,
            "image_grid_pinpoints": [[384, 768], [768, 384], [768, 768]],
            **_HALVES,
        },
        "<image>",
        ("<image>", "<video>"),
        {"method": "visionzip", "budgets": "64,128,256,729"},
    ),
    "qwen2-vl-2b": Shape(
        "Qwen2VLForConditionalGeneration",
        _qwen2_vl,
        {
            "image_processor_type": "Qwen2VLImageProcessor",
            "size": {"shortest_edge": 3136, "longest_edge": 12845056},
            "patch_size": 14,
            "merge_size": 2,
            "temporal_patch_size": 2,
            **_HALVES,
        },
        "<|vision_start|><|image_pad|><|vision_end|>",
        ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"),
        {"method": "visionzip", "budgets": "64,128,256", "size_px": (448, 448)},
    ),
}


def write_shape(path: Path, name: str) -> Path:
    """Write the checkpoint of this shape: float16 weights drawn with seed 0, a byte tokenizer."""
    shape = SHAPES[name]
    tokenizer = _make_tokenizer([*_SPECIAL, *shape.tokens])
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)  # so that a model of this size is never there in float32
    try:
        model = getattr(transformers, shape.kind)(shape.config(tokenizer.get_vocab()))
    finally:
        torch.set_default_dtype(before)
    model.generation_config.eos_token_id = None  # random weights may stop at once
    model.half().save_pretrained(path, max_shard_size="5GB")
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "chat_template.jinja").write_text(_TEMPLATE.replace("IMAGE", shape.image))
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    told = special | {"tokenizer_class": "PreTrainedTokenizerFast"}
    (path / "tokenizer_config.json").write_text(json.dumps(told))
    (path / "preprocessor_config.json").write_text(json.dumps(shape.processor))
    return path


def _make_tokenizer(special: list[str]) -> Tokenizer:
    """Bytes and a few merges: what a prompt needs."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["user: What is in the picture? assistant:"], trainer)
    return tokenizer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=list(SHAPES))
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    print(write_shape(options.out, options.name))
