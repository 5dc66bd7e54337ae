"""The demo model: an untrained LLaVA-1.5 in small, and its folder in the Hugging Face format."""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from tokenizer_build import build_tokenizer
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from vocabulary import GRID, IMAGE_SIDE_PX, PATCH_SIDE_PX

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's own, which runtimes for LLaVA-1.5 expect."""
WAVE_HEIGHT = 0.4
"""About the size of a fresh patch embedding, so that attention can see positions at once."""
AIMS = (
    ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0)),
    ((-1, -1), (-1, 1), (1, -1), (1, 1)),
    ((0, -2), (0, 2), (-2, 0), (2, 0)),
)
"""Offsets (rows, columns) that heads of the first blocks start with; the other heads are free.

Glyphs straddle patches, and a tower that starts from noise spends most of a short training on
finding out which patches are neighbours.
"""
ROPE_THETA = 1e6
"""As in today's decoders: half of each head then hardly turns between a question and the image."""
STILL_PAIRS = 16
"""Rotary pairs of a head that turn least, by which content is found at any distance."""
COPY_GAIN = 0.25
AIMED_WAVES = 8
AIM_GAIN = 1.75


def build_config(tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    """Shapes of the demo model: about 8 M parameters, 576 visual tokens."""
    vision = CLIPVisionConfig(
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=7,
        num_attention_heads=6,
        image_size=IMAGE_SIDE_PX,
        patch_size=PATCH_SIDE_PX,
        projection_dim=192,
        hidden_act="quick_gelu",
    )
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        **special,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=GRID * GRID,
        projector_hidden_act="gelu",
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        **special,
    )


def build_model(
    seed: int,
) -> tuple[LlavaForConditionalGeneration, PreTrainedTokenizerFast]:
    """An untrained model in fp32 and its tokenizer."""
    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(build_config(tokenizer))
    places = model.model.vision_tower.embeddings.position_embedding.weight
    with torch.no_grad():
        places[1:] += draw_waves(places.shape[1])
        for layer, offsets in zip(model.model.vision_tower.encoder.layers, AIMS, strict=False):
            for head, (down, across) in enumerate(offsets):
                aim_head(layer.self_attn, head, down, across)
        settle_decoder(model)
    return model, tokenizer


def settle_decoder(model: LlavaForConditionalGeneration) -> None:
    """Starts the residual stream at the embeddings, entries about 1, and each block near nothing.

    With Hugging Face's small embeddings, the first updates of the first block drown them.
    """
    decoder = model.model.language_model
    decoder.embed_tokens.weight.normal_(0.0, 1.0)
    decoder.norm.weight.fill_(decoder.config.hidden_size**-0.5)
    for layer in decoder.layers:
        start_finding(layer.self_attn, decoder.config)
        layer.mlp.down_proj.weight.zero_()


def start_finding(attention: Any, config: LlamaConfig) -> None:
    """Starts heads that look for tokens like their own and add what they find to the stream.

    "Red star" in a question then finds red stars in the image from the first step on, after Mimetic
    Initialization of Self-Attention Layers (arXiv 2305.09828).
    """
    size, width = attention.head_dim, config.hidden_size
    groups, heads = config.num_key_value_heads, config.num_attention_heads
    still = torch.arange(size // 2 - STILL_PAIRS, size // 2)
    still = torch.cat([still, still + size // 2])
    for group in range(groups):
        rows = torch.arange(group * size, (group + 1) * size)
        base = torch.nn.init.orthogonal_(torch.empty(size, width))
        attention.k_proj.weight[rows] = base
        value = torch.nn.init.orthogonal_(torch.empty(size, width))
        attention.v_proj.weight[rows] = value
        for head in range(group * heads // groups, (group + 1) * heads // groups):
            places = torch.arange(head * size, (head + 1) * size)
            attention.q_proj.weight[places[still]] = base[still]
            attention.o_proj.weight[:, places] = COPY_GAIN * value.T


def aim_head(attention: Any, head: int, down: int, across: int) -> None:
    """Starts a head so that each patch looks at the one that lies so many rows and columns off.

    A query holds waves of its own place turned by the offset, a key those of its place as they
    are, so that their product peaks where the two agree.
    """
    query, key = attention.q_proj.weight, attention.k_proj.weight
    quarter = query.shape[1] // 4
    waves = torch.linspace(quarter * 0.38, quarter - 2, AIMED_WAVES).long()
    angles = 2 * math.pi / list_wave_lengths(query.shape[1])[waves]
    row = head * attention.head_dim
    for start, offset in ((0, down), (2 * quarter, across)):
        for wave, angle in zip(waves.tolist(), angles.tolist(), strict=True):
            sine, cosine = start + wave, start + quarter + wave
            key[row, sine] += AIM_GAIN
            key[row + 1, cosine] += AIM_GAIN
            query[row, sine] += AIM_GAIN * math.cos(angle * offset)
            query[row, cosine] += AIM_GAIN * math.sin(angle * offset)
            query[row + 1, cosine] += AIM_GAIN * math.cos(angle * offset)
            query[row + 1, sine] -= AIM_GAIN * math.sin(angle * offset)
            row += 2


def list_wave_lengths(width: int) -> Tensor:
    """Wave lengths of positions in patches, long to short [width / 4]."""
    return torch.logspace(math.log10(2 * GRID), math.log10(2.2), width // 4)


def draw_waves(width: int) -> Tensor:
    """Sines and cosines of a patch's row and column [576, width], to start positions from.

    Looking at a neighbour is a rotation of these, which from noise would first have to be learned.
    """
    angles = 2 * math.pi * torch.arange(GRID)[:, None] / list_wave_lengths(width)
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows = line[:, None].expand(GRID, GRID, -1)
    columns = line[None].expand(GRID, GRID, -1)
    return WAVE_HEIGHT * torch.cat([rows, columns], dim=-1).flatten(0, 1)


def save_model(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    """Writes the folder that `LlavaForConditionalGeneration.from_pretrained` loads, in fp16."""
    folder.mkdir(parents=True, exist_ok=True)
    weights_dtype = next(model.parameters()).dtype
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=16,
        do_sample=False,
    )
    model.half().save_pretrained(folder)
    model.to(weights_dtype)
    tokenizer.save_pretrained(folder)
    write_processor(folder)


def write_processor(folder: Path) -> None:
    """The image and multimodal processors' files."""
    image = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": IMAGE_SIDE_PX},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": IMAGE_SIDE_PX, "width": IMAGE_SIDE_PX},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": PIXEL_MEAN,
        "image_std": PIXEL_STD,
    }
    processor = {
        "processor_class": "LlavaProcessor",
        "image_token": "<image>",
        "patch_size": PATCH_SIDE_PX,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    }
    for name, content in (("preprocessor_config", image), ("processor_config", processor)):
        text = json.dumps(content, indent=2) + "\n"
        (folder / f"{name}.json").write_text(text, encoding="utf-8")


def main() -> None:
    """Writes an untrained model, for trying an exporter's path."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    model, tokenizer = build_model(arguments.seed)
    save_model(model, tokenizer, arguments.output)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters in {arguments.output}")


if __name__ == "__main__":
    main()
