"""Tiny random models of every family: real layer types, small widths, weights that matter.

Each is written as Hugging Face would save it, with the image processor and the chat template that
its family has; `ask` puts a question to it as the family's processor would.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

SHAPES: dict[str, dict[str, int]] = {
    "": {},
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
    "groups of 3, head 96": {
        "hidden_size": 96,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 96,
    },
    "groups of 7, head 128": {
        "hidden_size": 112,
        "num_attention_heads": 7,
        "num_key_value_heads": 1,
        "head_dim": 128,
    },
    "head 256": {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 256},
}
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ 'ASSISTANT: ' }}{% else %}{{ 'USER: ' }}{% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ 'IMAGE' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ ' ' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
PALIGEMMA = "IMAGE{{ bos_token }}{{ messages[0]['content'][1]['text'] }}{{ '\\n' }}"
_SPECIAL = ["<pad>", "<s>", "</s>"]
IDEFICS = "Idefics3ImageProcessor"
_CLIP_PIXELS = {"image_mean": [0.5, 0.4, 0.45], "image_std": [0.25, 0.3, 0.28]}


@dataclass(frozen=True)
class Family:
    """How a family's tiny model is made, and how it is asked.

    Args:
        image: what stands for a picture in the rendered template.
        config: of a decoder's shape and vocabulary -> the model's.
        processor: `preprocessor_config.json`.
        spell: the text of a picture of n tokens, in the tokenizer's own words.
        inputs: what Hugging Face's `generate` takes besides ids: of pixels [P, 3, h, w] and tiles.
        several: the same of several pictures in one part each.
        tiles: rows and columns, for families that cut pictures.
    """

    kind: str
    image: str
    config: Callable[[dict[str, int], dict[str, int]], Any]
    processor: dict[str, Any]
    spell: Callable[[int], str]
    inputs: Callable[[Tensor], dict[str, Any]]
    tokens: tuple[str, ...]
    tiles: tuple[int, int] | None = None
    size_px: tuple[int, int] | None = None
    methods: tuple[str, ...] = ("visionzip", "divprune")
    template: str = TEMPLATE
    budgets: str = "3,5"
    several: Callable[[Tensor], dict[str, Any]] = lambda pixels: {"pixel_values": pixels}


def _text(kind: str, shape: dict[str, int], vocabulary: dict[str, int], **extras: Any) -> Any:
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }
    return getattr(transformers, kind)(
        **sizes | shape | extras,
        vocab_size=len(vocabulary),
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


def _vision(kind: str, **extras: Any) -> Any:
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    }
    return getattr(transformers, kind)(**sizes | extras)


def _llava_next(shape: dict[str, int], vocabulary: dict[str, int]) -> Any:
    return transformers.LlavaNextConfig(
        vision_config=_vision("CLIPVisionConfig"),
        text_config=_text("MistralConfig", shape, vocabulary, sliding_window=None),
        image_token_id=vocabulary["<image>"],
        image_grid_pinpoints=[[32, 64], [64, 32], [64, 64]],
    )


def _onevision(shape: dict[str, int], vocabulary: dict[str, int]) -> Any:
    return transformers.LlavaOnevisionConfig(
        vision_config=_vision("SiglipVisionConfig"),
        text_config=_text("Qwen2Config", shape, vocabulary),
        image_token_id=vocabulary["<image>"],
        video_token_id=vocabulary["<video>"],
        image_grid_pinpoints=[[32, 32], [32, 64], [64, 32], [64, 64]],
        vision_feature_layer=-1,
    )


def _internvl(shape: dict[str, int], vocabulary: dict[str, int]) -> Any:
    return transformers.InternVLConfig(
        vision_config=_vision(
            "InternVLVisionConfig", image_size=[32, 32], patch_size=[8, 8], attention_bias=True
        ),
        text_config=_text("Qwen2Config", shape, vocabulary),
        image_token_id=vocabulary["<IMG_CONTEXT>"],
        image_seq_length=4,
    )


def _smolvlm(shape: dict[str, int], vocabulary: dict[str, int]) -> Any:
    return transformers.SmolVLMConfig(
        vision_config=_vision("SmolVLMVisionConfig"),
        text_config=_text("LlamaConfig", shape, vocabulary),
        image_token_id=vocabulary["<image>"],
        scale_factor=2,
        pad_token_id=0,
    )


def _idefics3(shape: dict[str, int], vocabulary: dict[str, int]) -> Any:
    return transformers.Idefics3Config(
        vision_config=_vision("Idefics3VisionConfig"),
        text_config=_text("LlamaConfig", shape, vocabulary),
        image_token_id=vocabulary["<image>"],
        scale_factor=2,
        pad_token_id=0,
    )


def _gemma3(shape: dict[str, int], vocabulary: dict[str, int]) -> Any:
    kinds = {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"]}
    return transformers.Gemma3Config(
        vision_config=_vision("SiglipVisionConfig", vision_use_head=False),
        text_config=_text("Gemma3TextConfig", shape, vocabulary, **kinds),
        mm_tokens_per_image=4,
        image_token_index=vocabulary["<image_soft_token>"],
        boi_token_index=vocabulary["<start_of_image>"],
        eoi_token_index=vocabulary["<end_of_image>"],
    )


def _paligemma(kind: str, shape: dict[str, int], vocabulary: dict[str, int]) -> Any:
    extras = {} if kind == "GemmaConfig" else {"sliding_window": 12, "query_pre_attn_scalar": 16}
    text = _text(kind, shape, vocabulary, **extras)
    return transformers.PaliGemmaConfig(
        vision_config=_vision(
            "SiglipVisionConfig", vision_use_head=False, projection_dim=text.hidden_size
        ),
        text_config=text,
        image_token_index=vocabulary["<image>"],
        projection_dim=text.hidden_size,
    )


_QWEN_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}


def _qwen_text(kind: str, shape: dict[str, int], vocabulary: dict[str, int]) -> Any:
    """Heads as wide as hidden size over heads: the family knows no others."""
    heads = shape.get("num_attention_heads", 4)
    width = heads * shape.get("head_dim", 16)
    pair = shape.get("head_dim", 16) // 2
    rope = _QWEN_ROPE | {"mrope_section": [pair // 4, pair // 4, pair - 2 * (pair // 4)]}
    own = {k: v for k, v in shape.items() if k != "head_dim"} | {"hidden_size": width}
    text = _text(kind, own, vocabulary, rope_parameters=rope)
    del text.head_dim
    return text


def _qwen2_vl(shape: dict[str, int], vocabulary: dict[str, int]) -> Any:
    text = _qwen_text("Qwen2VLTextConfig", shape, vocabulary)
    vision = {"depth": 3, "embed_dim": 64, "num_heads": 4, "patch_size": 4, "mlp_ratio": 2}
    return transformers.Qwen2VLConfig(
        text_config=text.to_dict(),
        vision_config=vision | {"hidden_size": text.hidden_size},
        image_token_id=vocabulary["<|image_pad|>"],
        video_token_id=vocabulary["<|video_pad|>"],
        vision_start_token_id=vocabulary["<|vision_start|>"],
        vision_end_token_id=vocabulary["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def _qwen2_5_vl(shape: dict[str, int], vocabulary: dict[str, int]) -> Any:
    text = _qwen_text("Qwen2_5_VLTextConfig", shape, vocabulary)
    vision = {
        "depth": 3,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_heads": 4,
        "patch_size": 4,
        "window_size": 16,
        "fullatt_block_indexes": [2],
    }
    return transformers.Qwen2_5_VLConfig(
        text_config=text.to_dict(),
        vision_config=vision | {"out_hidden_size": text.hidden_size},
        image_token_id=vocabulary["<|image_pad|>"],
        video_token_id=vocabulary["<|video_pad|>"],
        vision_start_token_id=vocabulary["<|vision_start|>"],
        vision_end_token_id=vocabulary["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def _qwen3_vl(shape: dict[str, int], vocabulary: dict[str, int]) -> Any:
    pair = shape.get("head_dim", 16) // 2
    section = [pair - 2 * (pair // 4), pair // 4, pair // 4]
    rope = _QWEN_ROPE | {"mrope_section": section, "mrope_interleaved": True}
    text = _text("Qwen3VLTextConfig", shape, vocabulary, rope_parameters=rope)
    vision = {
        "depth": 3,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_heads": 4,
        "patch_size": 4,
        "num_position_embeddings": 36,
        "deepstack_visual_indexes": [0],
    }
    return transformers.Qwen3VLConfig(
        text_config=text.to_dict(),
        vision_config=vision | {"out_hidden_size": text.hidden_size},
        image_token_id=vocabulary["<|image_pad|>"],
        video_token_id=vocabulary["<|video_pad|>"],
        vision_start_token_id=vocabulary["<|vision_start|>"],
        vision_end_token_id=vocabulary["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def _lfm2_vl(shape: dict[str, int], vocabulary: dict[str, int]) -> Any:
    kinds = ["conv", "full_attention", "conv", "conv"]
    own = {"num_hidden_layers": 4, "layer_types": kinds}
    vision = _vision("Siglip2VisionConfig", num_patches=16, vision_use_head=False)
    return transformers.Lfm2VlConfig(
        text_config=_text("Lfm2Config", shape, vocabulary, **own),
        vision_config=vision,
        image_token_id=vocabulary["<image>"],
        projector_hidden_size=96,
    )


def _fast_vlm(shape: dict[str, int], vocabulary: dict[str, int]) -> Any:
    sizes = {"layers": [1] * 5, "embed_dims": [16, 16, 32, 32, 64], "mlp_ratios": [2] * 5}
    vision = {
        "model_type": "timm_wrapper",
        "architecture": "fastvit_mci3",
        "hidden_size": 128,  # of the last convolution: twice the last stage
        "model_args": sizes | {"inference_mode": True},
    }
    return transformers.FastVlmConfig(
        vision_config=vision,
        text_config=_text("Qwen2Config", shape, vocabulary),
        image_token_index=vocabulary["<image>"],
        image_seq_length=9,
    )


def _perception_lm(shape: dict[str, int], vocabulary: dict[str, int]) -> Any:
    sizes = {"embed_dim": 64, "depth": 2, "num_heads": 4, "patch_size": 8, "img_size": [48, 48]}
    vision = {
        "model_type": "timm_wrapper",
        "architecture": "vit_pe_lang_large_patch14_448",
        "do_pooling": False,
        "model_args": sizes | {"ref_feat_shape": [6, 6]},
    }
    return transformers.PerceptionLMConfig(
        vision_config=vision,
        text_config=_text("LlamaConfig", shape, vocabulary),
        image_token_id=vocabulary["<|image|>"],
        video_token_id=vocabulary["<|video|>"],
        projector_pooling_ratio=2,
    )


def _naflex(pixels: Tensor) -> dict[str, Any]:
    """Patches of 8 pixels, line by line, channels last, with padding behind them."""
    _, _, height, width = pixels.shape
    cut = [
        pixels[0, :, top : top + 8, left : left + 8].permute(1, 2, 0).flatten()
        for top in range(0, height, 8)
        for left in range(0, width, 8)
    ]
    rows = torch.stack([*cut, torch.zeros_like(cut[0])])[None]
    mask = torch.tensor([[1] * len(cut) + [0]])
    shapes = torch.tensor([[height // 8, width // 8]])
    return {"pixel_values": rows, "pixel_attention_mask": mask, "spatial_shapes": shapes}


def _patches(pixels: Tensor) -> dict[str, Any]:
    """Groups of 2 x 2 patches of 4 pixels, each patch as two frames."""
    lines, columns = pixels.shape[2] // 4, pixels.shape[3] // 4
    cut = pixels[0].reshape(3, lines // 2, 2, 4, columns // 2, 2, 4)
    cut = cut.permute(1, 4, 2, 5, 0, 3, 6).unsqueeze(5).expand(-1, -1, -1, -1, -1, 2, -1, -1)
    grid = torch.tensor([[1, lines, columns]])
    return {"pixel_values": cut.reshape(lines * columns, -1), "image_grid_thw": grid}


def _spell_parts(tiles: tuple[int, int] | None, n: int) -> str:
    """A picture of n rows, its separators among them if it has tiles of 4 tokens."""
    around = "<fake_token_around_image>"
    if tiles is None:
        return f"{around}<global-img>{'<image>' * n}{around}"
    lines = [
        "".join(f"{around}<row_{r}_col_{c}>{'<image>' * 4}" for c in range(1, tiles[1] + 1))
        for r in range(1, tiles[0] + 1)
    ]
    return "\n".join(lines) + f"\n\n{around}<global-img>{'<image>' * 4}{around}"


def _thumbnail_last(pixels: Tensor) -> dict[str, Any]:
    return {"pixel_values": torch.cat([pixels[1:], pixels[:1]])[None]}


def _sized(kind: str, **extras: Any) -> dict[str, Any]:
    return {
        "image_processor_type": kind,
        "do_resize": True,
        "size": {"height": 32, "width": 32},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        **_CLIP_PIXELS,
        **extras,
    }


_NEXT_PROCESSOR = _sized(
    "LlavaNextImageProcessor",
    size={"shortest_edge": 32},
    crop_size={"height": 32, "width": 32},
    do_center_crop=True,
    image_grid_pinpoints=[[32, 64], [64, 32], [64, 64]],
)
_ONEVISION_PROCESSOR = _sized("LlavaOnevisionImageProcessor", image_grid_pinpoints=[[64, 64]])


_SMOL_PROCESSOR = _sized(
    "SmolVLMImageProcessor",
    size={"longest_edge": 64},
    max_image_size={"longest_edge": 32},
    resample=1,
    do_image_splitting=True,
    do_pad=True,
)
_SMOL_TOKENS = (
    *("<image>", "<fake_token_around_image>", "<global-img>"),
    *(f"<row_{r}_col_{c}>" for r in (1, 2) for c in (1, 2)),
)


def _of_tiles(rows: int, columns: int) -> Callable[[Tensor], dict[str, Any]]:
    sizes = torch.tensor([[32 * rows, 32 * columns]])
    return lambda pixels: {"pixel_values": pixels[None], "image_sizes": sizes}


def _of_one_of_two(pixels: Tensor) -> dict[str, Any]:
    """Hugging Face cuts no picture of a prompt that has two."""
    sizes, count = torch.tensor([[32, 32]]), torch.tensor([2])
    return {"pixel_values": pixels[None], "image_sizes": sizes, "batch_num_images": count}


def _of_all(pixels: Tensor) -> dict[str, Any]:
    sizes, count = torch.tensor([[32, 32]] * len(pixels)), torch.tensor([len(pixels)])
    return {"pixel_values": pixels[:, None], "image_sizes": sizes, "batch_num_images": count}


def _plain(pixels: Tensor) -> dict[str, Any]:
    return {"pixel_values": pixels}


_LLAVA_IMAGE = {"image": "<image>", "spell": lambda n: "<image>" * n, "tokens": ("<image>",)}
_SMOLVLM: dict[str, Any] = {
    "image": "<image>",
    "processor": _SMOL_PROCESSOR,
    "inputs": _thumbnail_last,
    "several": lambda pixels: {"pixel_values": pixels[None]},
    "tokens": _SMOL_TOKENS,
}
_QWEN: dict[str, Any] = {
    "image": "<|vision_start|><|image_pad|><|vision_end|>",
    "processor": _sized(
        "Qwen2VLImageProcessor",
        size={"shortest_edge": 256, "longest_edge": 1 << 20},
        patch_size=4,
        merge_size=2,
        temporal_patch_size=2,
    ),
    "spell": lambda n: "<|vision_start|>" + "<|image_pad|>" * n + "<|vision_end|>",
    "inputs": _patches,
    "tokens": ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"),
}
FAMILIES: dict[str, Family] = {
    "llava_next 1x2": Family(
        "LlavaNextForConditionalGeneration",
        config=_llava_next,
        processor=_NEXT_PROCESSOR,
        inputs=_of_tiles(1, 2),
        tiles=(1, 2),
        methods=("hired", "globalcom2"),
        **_LLAVA_IMAGE,
    ),
    "llava_onevision": Family(
        "LlavaOnevisionForConditionalGeneration",
        config=_onevision,
        processor=_ONEVISION_PROCESSOR,
        inputs=_of_one_of_two,
        several=_of_all,
        **_LLAVA_IMAGE | {"tokens": ("<image>", "<video>")},
    ),
    "llava_onevision 2x2": Family(
        "LlavaOnevisionForConditionalGeneration",
        config=_onevision,
        processor=_ONEVISION_PROCESSOR,
        inputs=_of_tiles(2, 2),
        tiles=(2, 2),
        budgets="6,9",
        methods=("globalcom2",),
        **_LLAVA_IMAGE | {"tokens": ("<image>", "<video>")},
    ),
    "internvl": Family(
        "InternVLForConditionalGeneration",
        image="<IMG_CONTEXT>",
        config=_internvl,
        processor=_sized("GotOcr2ImageProcessor"),
        spell=lambda n: "<img>" + "<IMG_CONTEXT>" * n + "</img>",
        inputs=_plain,
        tokens=("<IMG_CONTEXT>", "<img>", "</img>"),
        methods=("fastervlm", "divprune"),
        budgets="2,3",
    ),
    "gemma3": Family(
        "Gemma3ForConditionalGeneration",
        image="<start_of_image>",
        config=_gemma3,
        processor=_sized("Gemma3ImageProcessor", resample=2),
        spell=lambda n: "\n\n<start_of_image>" + "<image_soft_token>" * n + "<end_of_image>\n\n",
        inputs=_plain,
        tokens=("<start_of_image>", "<image_soft_token>", "<end_of_image>"),
        budgets="2,3",
    ),
    "paligemma": Family(
        "PaliGemmaForConditionalGeneration",
        config=partial(_paligemma, "GemmaConfig"),
        processor=_sized("SiglipImageProcessor"),
        inputs=_plain,
        template=PALIGEMMA,
        **_LLAVA_IMAGE,
    ),
    "paligemma 2": Family(
        "PaliGemmaForConditionalGeneration",
        config=partial(_paligemma, "Gemma2Config"),
        processor=_sized("SiglipImageProcessor"),
        inputs=_plain,
        template=PALIGEMMA,
        **_LLAVA_IMAGE,
    ),
    "qwen2_vl": Family(
        "Qwen2VLForConditionalGeneration", config=_qwen2_vl, size_px=(24, 32), **_QWEN
    ),
    "qwen3_vl": Family(
        "Qwen3VLForConditionalGeneration", config=_qwen3_vl, size_px=(24, 32), **_QWEN
    ),
    "qwen2_5_vl": Family(
        "Qwen2_5_VLForConditionalGeneration", config=_qwen2_5_vl, size_px=(32, 48), **_QWEN
    ),
    "lfm2_vl": Family(
        "Lfm2VlForConditionalGeneration",
        config=_lfm2_vl,
        image="<image>",
        processor=_sized(
            "Lfm2VlImageProcessor", resample=2, min_image_tokens=4, encoder_patch_size=8
        ),
        spell=lambda n: "<|image_start|>" + "<image>" * n + "<|image_end|>",
        inputs=_naflex,
        tokens=("<image>", "<|image_start|>", "<|image_end|>"),
        size_px=(32, 48),
        budgets="3,5",
    ),
    "fast_vlm": Family(
        "FastVlmForConditionalGeneration",
        config=_fast_vlm,
        processor=_sized(
            "CLIPImageProcessor",
            size={"shortest_edge": 192},
            crop_size={"height": 192, "width": 192},
            do_center_crop=True,
        ),
        inputs=_plain,
        methods=("divprune", "aim"),
        **_LLAVA_IMAGE,
    ),
    "perception_lm": Family(
        "PerceptionLMForConditionalGeneration",
        image="<|image|>",
        config=_perception_lm,
        processor=_sized("PerceptionLMImageProcessor", tile_size=48),
        spell=lambda n: "<|image|>" * n,
        inputs=lambda pixels: {"pixel_values": pixels[None]},
        tokens=("<|image|>", "<|video|>"),
        methods=("divprune", "aim"),
    ),
    "smolvlm": Family(
        "SmolVLMForConditionalGeneration",
        config=_smolvlm,
        spell=partial(_spell_parts, None),
        budgets="2,3",
        **_SMOLVLM,
    ),
    "smolvlm 2x1": Family(
        "SmolVLMForConditionalGeneration",
        config=_smolvlm,
        spell=partial(_spell_parts, (2, 1)),
        tiles=(2, 1),
        methods=("globalcom2",),
        **_SMOLVLM,
    ),
    "idefics3 1x2": Family(
        "Idefics3ForConditionalGeneration",
        config=_idefics3,
        spell=partial(_spell_parts, (1, 2)),
        tiles=(1, 2),
        methods=("globalcom2",),
        **_SMOLVLM | {"processor": _SMOL_PROCESSOR | {"image_processor_type": IDEFICS}},
    ),
}


def write_tiny(path: Path, name: str, shape: str = "") -> Path:
    """Write the model of this row with seeded weights."""
    family = FAMILIES[name]
    tokenizer = _make_tokenizer([*_SPECIAL, *family.tokens])
    torch.manual_seed(0)
    config = family.config(SHAPES[shape], tokenizer.get_vocab())
    model = getattr(transformers, family.kind)(config).eval()
    for weight in model.parameters():
        if weight.ndim > 1:  # spread, so that answers depend on the image
            torch.nn.init.normal_(weight, std=1.5 / weight.shape[-1] ** 0.5)
        else:
            weight.data += 0.1 * torch.randn_like(weight)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(path)
    tokenizer.save(str(path / "tokenizer.json"))
    if family.template is TEMPLATE:
        (path / "chat_template.jinja").write_text(TEMPLATE.replace("IMAGE", family.image))
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    (path / "tokenizer_config.json").write_text(
        json.dumps(names | {"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    (path / "preprocessor_config.json").write_text(json.dumps(family.processor))
    return path


def _make_tokenizer(special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        ["USER: What is in the picture? ASSISTANT: a red circle"], trainer
    )
    return tokenizer


def _marks(ids: Tensor, image: int, kind: str) -> dict[str, Tensor]:
    """What tells `generate` which rows see ahead."""
    if kind == "Gemma3ForConditionalGeneration":
        return {"token_type_ids": (ids == image).long()}
    if kind == "PaliGemmaForConditionalGeneration":
        return {"token_type_ids": torch.zeros_like(ids)}
    if kind.startswith("Qwen"):
        return {"mm_token_type_ids": (ids == image).int()}
    return {}


@dataclass
class HuggingFace:
    """A model directory as Hugging Face runs it, with nothing of edgetok in between."""

    path: Path
    name: str
    family: Family = field(init=False)

    def __post_init__(self) -> None:
        self.family = FAMILIES[self.name]
        kind = getattr(transformers, self.family.kind)
        self.model = kind.from_pretrained(self.path, attn_implementation="eager").eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(self.path)
        self.tokenizer.chat_template = self.family.template.replace("IMAGE", self.family.image)

    @torch.no_grad()
    def ask(
        self, pixels: Tensor, question: str, tokens: int, pictures: int = 1
    ) -> tuple[Tensor, list[int]]:
        """Logits [steps, W] and ids of `generate`'s greedy answer of at most 12 tokens.

        `tokens` are those of one of the pictures.
        """
        images = [{"type": "image"}] * pictures
        content = [*images, {"type": "text", "text": question}]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        text = text.replace(self.family.image, self.family.spell(tokens), pictures)
        ids = self.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        out = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **(self.family.inputs if pictures == 1 else self.family.several)(pixels),
            **_marks(ids, self.model.config.image_token_id, self.family.kind),
            max_new_tokens=12,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        return torch.cat(out.logits), out.sequences[0, ids.shape[1] :].tolist()


def pictures(count: int, seed: int = 0) -> list[Image.Image]:
    """Noise of odd sizes."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number in range(count):
        size = (40 + 7 * (number % 3), 48 - 5 * (number % 4), 3)
        noise = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
        found.append(Image.fromarray(noise.numpy()))
    return found
