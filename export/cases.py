"""What graphs are checked on: images and prompts, prepared by Hugging Face's own processors."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from edgetok.bundle.processor import PromptPlan
from edgetok.calibration.samples import Sample
from edgetok.families.parts import Parts
from edgetok.families.tokenizer import open_tokenizer
from edgetok.images.reading import read_file
from edgetok.text.prompt import strip_text

SYNTHETIC_PROMPT = "What is in the picture?"


@dataclass(frozen=True)
class Case:
    """Images and prompt: a file's bytes, all pixels [P, 3, h, w], the ids around the images.

    `question` are the places of the user's own text in `before` and `after` put together; `more`
    the bytes and suffixes of the images after the first one.
    """

    image: bytes
    suffix: str
    prompt: str
    pixels: Tensor
    before: list[int]
    after: list[int]
    question: range
    more: tuple[tuple[bytes, str], ...] = ()


def make_cases(parts: Parts, samples: Sequence[Sample]) -> list[Case]:
    """Prepare samples as Hugging Face would.

    Where a prompt has several images, those of a sample are its own and the ones that follow it
    in the list, from whose end on it begins again.

    Raises:
        InputError: if an image cannot be read.
    """
    processor = parts.open_processor(parts.path)
    tokenizer = open_tokenizer(parts.path).backend_tokenizer
    cases = []
    for number, sample in enumerate(samples):
        shown = [samples[(number + i) % len(samples)] for i in range(parts.vision.pictures)]
        read = [(*read_file(each.image), each.image.suffix.lower()) for each in shown]
        pixels = torch.cat([parts.process(processor, picture) for _, picture, _ in read])
        before, after = split_prompt(parts.prompt.plan, tokenizer, sample.prompt)
        question = find_question(parts.prompt.plan, tokenizer, sample.prompt)
        (data, _, suffix), *others = read
        more = tuple((each, ending) for each, _, ending in others)
        cases.append(Case(data, suffix, sample.prompt, pixels, before, after, question, more))
    return cases


def split_prompt(
    plan: PromptPlan, tokenizer: Tokenizer, user_text: str
) -> tuple[list[int], list[int]]:
    """Token ids before and after the image, tokenized as one string like Hugging Face does."""
    halves, _ = _render_halves(plan, tokenizer, user_text)
    before, after = (tokenizer.encode(half, add_special_tokens=False).ids for half in halves)
    return before, after


def count_template_tokens(parts: Parts) -> int:
    """Text tokens of a prompt in which the user says nothing."""
    tokenizer = open_tokenizer(parts.path).backend_tokenizer
    before, after = split_prompt(parts.prompt.plan, tokenizer, "")
    return len(before) + len(after)


def find_question(plan: PromptPlan, tokenizer: Tokenizer, user_text: str) -> range:
    """Places of the tokens that hold a character of the user's text, before and after as one."""
    halves, (side, start) = _render_halves(plan, tokenizer, user_text)
    before, after = (tokenizer.encode(half, add_special_tokens=False) for half in halves)
    strip = next(s.strip for s in plan.segments if s.slot == "user")
    characters = range(start, start + len(strip_text(user_text, strip)))
    spans = (before, after)[side].offsets
    places = [i for i, span in enumerate(spans) if set(range(*span)) & set(characters)]
    skipped = len(before.ids) if side else 0
    return range(skipped + places[0], skipped + places[-1] + 1) if places else range(0)


def _render_halves(
    plan: PromptPlan, tokenizer: Tokenizer, user_text: str
) -> tuple[list[str], tuple[int, int]]:
    """The prompt before and after the image; and in which of both, and where, the user begins."""
    added = tokenizer.get_added_tokens_decoder()
    halves, place = [""], (0, 0)
    for segment in plan.segments:
        if segment.slot == "image":
            halves.append("")
        elif segment.slot == "user":
            place = len(halves) - 1, len(halves[-1])
            halves[-1] += strip_text(user_text, segment.strip)
        elif segment.text is not None:
            halves[-1] += segment.text
        else:
            halves[-1] += "".join(added[index].content for index in segment.ids or [])
    return halves, place


def synthetic_pictures(count: int, side_px: int = 256) -> list[Image.Image]:
    """Gradients, blocks and noise from a fixed seed, for a check without samples."""
    generator = np.random.Generator(np.random.PCG64(0))
    ramp = np.linspace(0, 255, side_px)
    pictures = []
    for _ in range(count):
        base = np.stack([np.add.outer(ramp * a, ramp * (1 - a)) for a in generator.random(3)], -1)
        blocks = (
            generator.integers(0, 120, (8, 8, 3)).repeat(side_px // 8, 0).repeat(side_px // 8, 1)
        )
        noise = generator.normal(0, 8, base.shape)
        pictures.append(
            Image.fromarray(np.clip(base / 2 + blocks + noise, 0, 255).astype(np.uint8))
        )
    return pictures


def synthetic_cases(parts: Parts, count: int) -> list[Case]:
    """Cases for an export that was given no samples; they check graphs, not quality."""
    processor = parts.open_processor(parts.path)
    tokenizer = open_tokenizer(parts.path).backend_tokenizer
    before, after = split_prompt(parts.prompt.plan, tokenizer, SYNTHETIC_PROMPT)
    question = find_question(parts.prompt.plan, tokenizer, SYNTHETIC_PROMPT)
    cases, several = [], parts.vision.pictures
    pictures = synthetic_pictures(count * several)
    for first in range(0, len(pictures), several):
        shown = pictures[first : first + several]
        pixels = torch.cat([parts.process(processor, picture) for picture in shown])
        data, *others = map(_pack, shown)
        more = tuple((each, ".png") for each in others)
        cases.append(Case(data, ".png", SYNTHETIC_PROMPT, pixels, before, after, question, more))
    return cases


def _pack(picture: Image.Image) -> bytes:
    packed = io.BytesIO()
    picture.save(packed, "PNG")
    return packed.getvalue()
