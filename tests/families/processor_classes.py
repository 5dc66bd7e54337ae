"""Prompts as the processor class of a family writes them: its words around and inside an image.

Classes are made of a tiny model's tokenizer and image processor, without the video processors that
need torchvision: only images are shown to them.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from PIL import Image

ADD_NOTHING = {"add_special_tokens": False}


@dataclass(frozen=True)
class ProcessorClass:
    """How a class is made for a tiny model.

    Args:
        given: what published checkpoints say in processor_config.json.
        names: tokens that their tokenizers name.
        size_px: of an image that the class cuts or resizes as the export chose.
        asks_plainly: whether it takes the question alone, and no rendered template.
    """

    kind: str
    given: dict[str, Any] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    size_px: tuple[int, int] = (40, 50)
    images_kwargs: dict[str, Any] = field(default_factory=dict)
    asks_plainly: bool = False


_NEXT = {"patch_size": 8, "vision_feature_select_strategy": "default"}
_INTERN = {"start_image_token": "<img>", "end_image_token": "</img>"}
_INTERN |= {"context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"}
_GEMMA = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
_GEMMA |= {"image_token": "<image_soft_token>"}


def _of_size(height: int, width: int) -> dict[str, Any]:
    size = {"shortest_edge": height * width, "longest_edge": height * width}
    return {"size_px": (height, width), "images_kwargs": {"size": size}}


CLASSES = {
    "llava_next 1x2": ProcessorClass(
        "LlavaNextProcessor", _NEXT | {"num_additional_image_tokens": 1}, size_px=(32, 64)
    ),
    "llava_onevision 2x2": ProcessorClass(
        "LlavaOnevisionProcessor",
        {"num_image_tokens": 16, "vision_feature_select_strategy": "full"},
        size_px=(64, 64),
    ),
    "internvl": ProcessorClass(
        "InternVLProcessor",
        {"image_seq_length": 4},
        _INTERN,
        images_kwargs={"crop_to_patches": False},
    ),
    "gemma3": ProcessorClass("Gemma3Processor", {"image_seq_length": 4}, _GEMMA),
    "paligemma": ProcessorClass("PaliGemmaProcessor", asks_plainly=True),
    "paligemma 2": ProcessorClass("PaliGemmaProcessor", asks_plainly=True),
    "qwen2_vl": ProcessorClass("Qwen2VLProcessor", **_of_size(24, 32)),
    "qwen2_5_vl": ProcessorClass("Qwen2_5_VLProcessor", **_of_size(32, 48)),
    "qwen3_vl": ProcessorClass("Qwen3VLProcessor", **_of_size(24, 32)),
    "smolvlm": ProcessorClass(  # needs num2words
        "SmolVLMProcessor", {"image_seq_len": 4}, images_kwargs={"do_image_splitting": False}
    ),
    "smolvlm 2x1": ProcessorClass("SmolVLMProcessor", {"image_seq_len": 4}, size_px=(64, 32)),
    "idefics3 1x2": ProcessorClass("Idefics3Processor", {"image_seq_len": 4}, size_px=(32, 64)),
}


def ask(path: Path, name: str, question: str, image_processor: Any) -> list[int]:
    """Ids of a question about one image, by the class alone.

    Raises:
        ImportError: if the class needs a package that is not installed.
    """
    case = CLASSES[name]
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, extra_special_tokens=case.names)
    text = question
    if not case.asks_plainly:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=(path / "chat_template.jinja").read_text(),
            tokenize=False,
            add_generation_prompt=True,
        )
    noise = np.random.default_rng(0).integers(0, 256, (*case.size_px, 3), np.uint8)
    out = _make(case, tokenizer, image_processor)(
        text=text,
        images=[Image.fromarray(noise)],
        images_kwargs=case.images_kwargs,
        text_kwargs=ADD_NOTHING,
    )
    return list(out["input_ids"][0])


def _make(case: ProcessorClass, tokenizer: Any, image_processor: Any) -> Any:
    kind = getattr(transformers, case.kind)
    parts = {"tokenizer": tokenizer, "image_processor": image_processor}
    if "video_processor" in inspect.signature(kind.__init__).parameters:
        parts["video_processor"] = None
    if case.kind == "PaliGemmaProcessor":
        image_processor.image_seq_length = 16
    unchecked = {"check_argument_for_proper_class": lambda *_: None}
    return type("Bare", (kind,), unchecked)(**parts, **case.given)
