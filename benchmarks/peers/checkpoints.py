"""Random checkpoints of real shapes, with a question of a known number of tokens.

llava135: CLIP-B/14 at 336 pixels, 576 visual tokens, a decoder of 135 M with an untied head.
qwen297: Qwen2-VL, 448 pixels, 256 visual tokens; what openvino.genai prunes is of this family.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

_TEXT = "the quick brown fox jumps over the lazy dog what is in this image"
_WORDS = _TEXT.split(" ")
_BASIC = ["<pad>", "<s>", "</s>", "<unk>"]
_QWEN = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{% endfor %} assistant:"
)


@dataclass(frozen=True)
class Checkpoint:
    """One model that all contestants run.

    Args:
        image: what a prompt has for a picture.
        text_tokens: of a prompt with the first question, template included.
        second_tokens: behind the picture, of a prompt with the second question.
    """

    make: Callable[[dict[str, int]], Any]
    special: list[str]
    image: str
    side_px: int
    visual_tokens: int
    text_tokens: int = 64
    second_tokens: int = 45


def _make_llava(ids: dict[str, int]) -> Any:
    vision = transformers.CLIPVisionConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        image_size=336,
        patch_size=14,
    )
    text = transformers.LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        **_IDS,
    )
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=ids["<image>"],
        vision_feature_layer=-2,
        tie_word_embeddings=False,
    )
    return transformers.LlavaForConditionalGeneration(config)


def _make_qwen(ids: dict[str, int]) -> Any:
    text = transformers.Qwen2VLTextConfig(
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=12,
        num_attention_heads=14,
        num_key_value_heads=2,
        vocab_size=32768,
        max_position_embeddings=32768,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 1000000.0,
            "mrope_section": [8, 12, 12],
        },
        tie_word_embeddings=True,
        **_IDS,
    )
    config = transformers.Qwen2VLConfig(
        text_config=text.to_dict(),
        vision_config={"depth": 16, "embed_dim": 640, "num_heads": 8, "hidden_size": 896},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    return transformers.Qwen2VLForConditionalGeneration(config)


CHECKPOINTS = {
    "llava135": Checkpoint(_make_llava, ["<image>"], "<image>", 336, 576),
    "qwen297": Checkpoint(
        _make_qwen, _QWEN, "<|vision_start|><|image_pad|><|vision_end|>", 448, 256
    ),
}


def write_checkpoint(name: str, folder: Path) -> None:
    """Weights in float32 drawn with seed 0, tokenizer, processor, samples and `question.json`."""
    made = CHECKPOINTS[name]
    tokenizer = _train_tokenizer([*_BASIC, *made.special])
    torch.manual_seed(0)
    model = made.make(tokenizer.get_vocab()).eval()
    model.generation_config = transformers.GenerationConfig(**_IDS)
    model.save_pretrained(folder)
    _write_processor(made, tokenizer, folder)
    _write_question(made, tokenizer, folder)
    _write_samples(made, folder)


def _train_tokenizer(special: list[str]) -> Tokenizer:
    """Bytes and the words of the question: one token a word."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f"{_TEXT} user assistant"] * 50, trainer)
    return tokenizer


def _write_processor(made: Checkpoint, tokenizer: Tokenizer, folder: Path) -> None:
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    template = _TEMPLATE.replace("IMAGE", made.image)
    if made.image == "<image>":
        images = transformers.CLIPImageProcessor(
            size={"shortest_edge": made.side_px},
            crop_size={"height": made.side_px, "width": made.side_px},
        )
        transformers.LlavaProcessor(
            image_processor=images,
            tokenizer=fast,
            patch_size=14,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            image_token="<image>",
            chat_template=template,
        ).save_pretrained(folder)
        return
    fast.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(template)
    tokenizer_config = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer_config["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    sizes = {"min_pixels": 3136, "max_pixels": 12845056}
    images = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor",
        "size": {"shortest_edge": 3136, "longest_edge": 12845056},
        "patch_size": 14,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "resample": 3,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(images | sizes))


def _write_question(made: Checkpoint, tokenizer: Tokenizer, folder: Path) -> None:
    """Both questions as text and as token ids before and behind the visual tokens."""
    opened, closed = made.image.split(made.special[0])
    before = tokenizer.encode(f"user: {opened}").ids

    def ask(count: int, words: list[str]) -> dict[str, Any]:
        text, after = "", tokenizer.encode(f"{closed} assistant:").ids
        while len(after) < count:
            text = " ".join(words[: len(text.split()) + 1])
            after = tokenizer.encode(f"{closed}{text} assistant:").ids
        assert len(after) == count, "a word is more than one token"  # noqa: S101
        return {"text": text, "before": before, "after": after}

    question = {
        "image": made.image,
        "side_px": made.side_px,
        "visual_tokens": made.visual_tokens,
        "first": ask(made.text_tokens - len(before), _WORDS * 9),
        "second": ask(made.second_tokens, _WORDS[::-1] * 9),  # no row of it is in the cache
    }
    (folder / "question.json").write_text(json.dumps(question))


def _write_samples(made: Checkpoint, folder: Path) -> None:
    """Pictures of a few blobs and one question, for scales of the KV cache."""
    text = json.loads((folder / "question.json").read_text())["first"]["text"]
    random = np.random.default_rng(0)
    (folder / "samples").mkdir(exist_ok=True)
    lines = []
    for i in range(6):
        blobs = Image.fromarray(random.integers(0, 256, (9 + i, 9, 3), dtype=np.uint8))
        blobs.resize((made.side_px, made.side_px)).save(folder / f"samples/{i}.png")
        lines.append(json.dumps({"image": f"{i}.png", "prompt": text}))
    (folder / "samples/samples.jsonl").write_text("\n".join(lines) + "\n")


def write_decoder(checkpoint: Path, folder: Path) -> None:
    """The decoder of llava135 as a Llama of its own, for what takes no model with a tower."""
    whole = transformers.LlavaForConditionalGeneration.from_pretrained(
        checkpoint, dtype=torch.float32
    )
    decoder = transformers.LlamaForCausalLM(whole.config.text_config)
    decoder.model.load_state_dict(whole.model.language_model.state_dict())
    decoder.lm_head.load_state_dict(whole.lm_head.state_dict())
    decoder.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)


if (
    __name__ == "__main__"
):  # checkpoints.py MODEL FOLDER, or checkpoints.py decoder CHECKPOINT FOLDER
    kind, *paths = sys.argv[1:]
    if kind == "decoder":
        write_decoder(*map(Path, paths))
    else:
        write_checkpoint(kind, Path(paths[0]))
