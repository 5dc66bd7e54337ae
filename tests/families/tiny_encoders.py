"""Tiny random encoders of every kind: real layer types, small widths, weights that matter."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

_BASE = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
_ODD = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3}
_VALUES = {
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.45],
    "image_std": [0.25, 0.3, 0.28],
}
_LABELS = {0: "cat", 1: "dog", 2: "red circle", 3: "sign", 4: "none of these"}
_NAMED = {"id2label": _LABELS, "label2id": {name: n for n, name in _LABELS.items()}}


def _square(kind: str, side_px: int, resample: int = 2) -> dict[str, Any]:
    size = {"size": {"height": side_px, "width": side_px}}
    return _VALUES | size | {"image_processor_type": kind, "resample": resample}


def _cropped(kind: str, shortest_px: int, side_px: int) -> dict[str, Any]:
    crop = {"do_center_crop": True, "crop_size": {"height": side_px, "width": side_px}}
    size = {"size": {"shortest_edge": shortest_px}, "resample": 3}
    return _VALUES | crop | size | {"image_processor_type": kind}


@dataclass(frozen=True)
class Kind:
    """How a tiny encoder is made.

    Args:
        build: of some widths -> the model with random weights.
        processor: `preprocessor_config.json`.
        task: what its bundle is for.
        methods: those inside the tower to try, with two budgets that they can meet.
    """

    build: Callable[[dict[str, int]], Any]
    processor: dict[str, Any]
    task: str
    methods: dict[str, str] = field(default_factory=lambda: {"tome": "5,9", "evit": "5,9"})
    texts: bool = False


def _plain(shape: dict[str, int], **more: Any) -> dict[str, Any]:
    width = shape["hidden_size"]
    return shape | {"intermediate_size": 2 * width, "image_size": 32, "patch_size": 8} | more


def _dino(shape: dict[str, int], **more: Any) -> dict[str, Any]:
    return shape | {"mlp_ratio": 2, "image_size": 56, "patch_size": 8, **_NAMED} | more


def _clip(shape: dict[str, int]) -> Any:
    text = _BASE | {"intermediate_size": 96, "vocab_size": 300, "max_position_embeddings": 24}
    text |= {"num_hidden_layers": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return hf.CLIPModel(
        hf.CLIPConfig(text_config=text, vision_config=_plain(shape), projection_dim=40)
    )


def _siglip(shape: dict[str, int]) -> Any:
    text = _BASE | {"intermediate_size": 96, "vocab_size": 300, "max_position_embeddings": 20}
    text |= {"num_hidden_layers": 2, "projection_size": shape["hidden_size"]}
    return hf.SiglipModel(hf.SiglipConfig(text_config=text, vision_config=_plain(shape)))


def _dpt(shape: dict[str, int]) -> Any:
    return hf.DPTForDepthEstimation(
        hf.DPTConfig(
            **_plain(shape | {"num_hidden_layers": 5}, image_size=64),
            backbone_out_indices=[0, 2, 3, 4],
            neck_hidden_sizes=[8, 12, 16, 16],
            fusion_hidden_size=16,
            readout_type="project",
            is_hybrid=False,
        )
    )


def _dpt_dino(shape: dict[str, int]) -> Any:
    backbone = hf.Dinov2Config(
        **_dino(shape | {"num_hidden_layers": 4}),
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
    )
    return hf.DPTForDepthEstimation(
        hf.DPTConfig(
            backbone_config=backbone,
            neck_hidden_sizes=[8, 12, 16, 16],
            fusion_hidden_size=16,
            readout_type="project",
            is_hybrid=False,
            add_projection=False,
        )
    )


def _eomt(shape: dict[str, int]) -> Any:
    config = hf.EomtConfig(
        **_plain(shape | {"num_hidden_layers": 6}, image_size=64),
        num_blocks=2,
        num_queries=7,
        num_upscale_blocks=1,
        num_register_tokens=2,
        mlp_ratio=2,
        **_NAMED,
    )
    model = hf.EomtForUniversalSegmentation(config)
    model.attn_mask_probs.zero_()
    return model


KINDS: dict[str, Kind] = {
    "vit": Kind(
        lambda s: hf.ViTForImageClassification(hf.ViTConfig(**_plain(s, **_NAMED))),
        _square("ViTImageProcessor", 32),
        "classify",
        {"tome": "5,9", "evit": "5,9", "expedit": "4,9"},
    ),
    "vit embedding": Kind(
        lambda s: hf.ViTModel(hf.ViTConfig(**_plain(s)), add_pooling_layer=False),
        _square("ViTImageProcessor", 32),
        "embed",
    ),
    "deit": Kind(
        lambda s: hf.DeiTForImageClassification(hf.DeiTConfig(**_plain(s, **_NAMED))),
        _cropped("DeiTImageProcessor", 36, 32),
        "classify",
        {"tome": "5,9", "topk": "5,9"},
    ),
    "deit distilled": Kind(
        lambda s: hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(**_plain(s, **_NAMED))),
        _cropped("DeiTImageProcessor", 36, 32),
        "classify",
        {"tome": "5,9", "pitome": "5,9"},
    ),
    "dinov2": Kind(
        lambda s: hf.Dinov2ForImageClassification(hf.Dinov2Config(**_dino(s))),
        _cropped("BitImageProcessor", 36, 32),  # smaller than the positions were made for
        "classify",
    ),
    "dinov2 embedding": Kind(
        lambda s: hf.Dinov2Model(hf.Dinov2Config(**_dino(s, use_swiglu_ffn=True))),
        _cropped("BitImageProcessor", 36, 32),
        "embed",
        {"tome": "5,9", "mctf": "9,11"},
    ),
    "dinov2 registers": Kind(
        lambda s: hf.Dinov2WithRegistersForImageClassification(
            hf.Dinov2WithRegistersConfig(**_dino(s, num_register_tokens=2))
        ),
        _cropped("BitImageProcessor", 36, 32),
        "classify",
    ),
    "dinov3": Kind(
        lambda s: hf.DINOv3ViTModel(
            hf.DINOv3ViTConfig(**_plain(s, num_register_tokens=3, use_gated_mlp=True))
        ),
        _square("DINOv3ViTImageProcessorFast", 32),
        "embed",
        {},
    ),
    "clip tower": Kind(
        lambda s: hf.CLIPVisionModelWithProjection(
            hf.CLIPVisionConfig(**_plain(s), projection_dim=40)
        ),
        _cropped("CLIPImageProcessor", 32, 32),
        "embed",
    ),
    "clip classifier": Kind(
        lambda s: hf.CLIPForImageClassification(hf.CLIPConfig(vision_config=_plain(s), **_NAMED)),
        _cropped("CLIPImageProcessor", 32, 32),
        "classify",
    ),
    "clip": Kind(_clip, _cropped("CLIPImageProcessor", 32, 32), "similarity", texts=True),
    "siglip tower": Kind(
        lambda s: hf.SiglipVisionModel(hf.SiglipVisionConfig(**_plain(s))),
        _square("SiglipImageProcessor", 32, 3),
        "embed",
    ),
    "siglip classifier": Kind(
        lambda s: hf.SiglipForImageClassification(
            hf.SiglipConfig(vision_config=_plain(s), **_NAMED)
        ),
        _square("SiglipImageProcessor", 32, 3),
        "classify",
        {"tome": "5,9", "pitome": "5,9"},
    ),
    "siglip": Kind(_siglip, _square("SiglipImageProcessor", 32, 3), "similarity", texts=True),
    "dpt": Kind(_dpt, _square("DPTImageProcessor", 64, 3), "depth", {"expedit": "9,25"}),
    "dpt dinov2": Kind(
        _dpt_dino,
        _square("DPTImageProcessor", 60, 3) | {"keep_aspect_ratio": True, "ensure_multiple_of": 8},
        "depth",
        {"expedit": "9,25"},
    ),
    "eomt": Kind(
        _eomt,
        _VALUES
        | {"image_processor_type": "EomtImageProcessor", "resample": 2}
        | {"size": {"shortest_edge": 64, "longest_edge": 64}, "do_split_image": False},
        "segment",
        {"expedit": "9,25"},
    ),
}
LABELLED = ("classify", "segment")
SHAPES = {
    "": _BASE,
    "3 heads of 16": _ODD,
    "two blocks": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
}


def write_tiny_encoder(path: Path, name: str, shape: str = "") -> Path:
    """Write a model with seeded weights, as Hugging Face would save it."""
    kind = KINDS[name]
    torch.manual_seed(0)
    model = kind.build(SHAPES[shape]).eval()
    for key, weight in model.named_parameters():
        if weight.ndim > 1:  # spread, so that outputs depend on the picture
            torch.nn.init.normal_(weight, std=1.2 / weight[0].numel() ** 0.5)
        elif weight.ndim == 1:
            weight.data += 0.1 * torch.randn_like(weight)
        if "logit_scale" in key:
            weight.data.fill_(2.0)
        if key == "head.head.4.bias":  # depth lies behind a ReLU
            weight.data.fill_(3.0)
    model.save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps(kind.processor))
    if kind.texts:
        _write_tokenizer(path)
    return path


def _write_tokenizer(path: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["a photo of a cat, two red circles on a table"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer.save(str(path / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    (path / "tokenizer_config.json").write_text(
        json.dumps(names | {"tokenizer_class": "PreTrainedTokenizerFast"})
    )
